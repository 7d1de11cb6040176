// The service. Addresses are relative, so that the page also works behind a proxy's prefix.
const KEPT = 'zhaiju.token';
let token = null;
try {
  token = sessionStorage.getItem(KEPT);
} catch {
  // a browser may forbid it; then the token lasts as long as the page
}
const running = new Map();
let unauthorised = () => {};

export class ApiError extends Error {
  constructor(status, { code, message, field }, retry = null) {
    super(message);
    Object.assign(this, { status, code, field: field ?? '', retry });
  }
}

export function setToken(value) {
  token = value;
  try {
    sessionStorage.setItem(KEPT, value);
  } catch {
    // see above
  }
}

export function onUnauthorised(does) {
  unauthorised = does;
}

export function isAborted(error) {
  return error.name === 'AbortError';
}

async function send(method, path, body, signal) {
  const headers = {};
  if (token !== null) headers.Authorization = `Bearer ${token}`;
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  let response;
  try {
    response = await fetch(path, { method, headers, signal, body: body && JSON.stringify(body), cache: 'no-store' });
  } catch (error) {
    throw isAborted(error) ? error : new ApiError(0, { code: 'network', message: '' });
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  const error = new ApiError(
    response.status,
    said.error ?? { code: 'other', message: `HTTP ${response.status}` },
    Number(response.headers.get('Retry-After')) || null,
  );
  if (response.status === 401) unauthorised(token !== null);
  throw error;
}

/** Ask the service; a newer request for the same purpose aborts the older one. */
export async function call(method, path, body, purpose = null) {
  running.get(purpose)?.abort();
  const control = new AbortController();
  if (purpose !== null) running.set(purpose, control);
  try {
    return await (await send(method, path, body, control.signal)).json();
  } finally {
    if (running.get(purpose) === control) running.delete(purpose);
  }
}

export async function download(path) {
  return (await send('GET', path)).blob();
}

export function drop(purpose) {
  running.get(purpose)?.abort();
}

/** What an error means, as a sentence: [key, values]. */
export function meaning(error) {
  const known = ['network', 'overloaded', 'stopping', 'index_busy', 'deadline', 'too_large', 'too_many_requests',
    'unauthorized', 'uploads_off', 'internal'];
  if (error instanceof ApiError) {
    const values = { n: error.retry ?? 1, message: error.message };
    if (known.includes(error.code)) return [`error_${error.code}`, values];
    const place = /^(?:contexts|documents)\[(\d+)\]/.exec(error.field);
    if (error.code === 'too_long') return [place ? 'error_too_long_at' : 'error_too_long', { ...values, at: place ? Number(place[1]) + 1 : 0 }];
    return [place ? 'error_invalid_at' : 'error_invalid', { ...values, at: place ? Number(place[1]) + 1 : 0 }];
  }
  return ['error_invalid', { message: String(error.message ?? error) }];
}
