// Documents: those in the index; adding by choosing or dropping files.
import { call, isAborted, meaning } from './api.js';
import { careful, el } from './dom.js';
import { announce, say } from './language.js';

const PLAIN = /\.(txt|md|markdown|text)$/i;

export function documentsTab(known) {
  const list = el('ul', { class: 'documents' });
  const wrong = el('div', { role: 'alert' });
  const complain = (key, values) => wrong.append(el('p', { class: 'wrong', say: [key, values] }));
  const state = el('p', { class: 'help', role: 'status' });
  const root = el('div', { class: 'single' }, el('h2', { say: 'documents' }));
  if (known.uploads) {
    const input = el('input', { type: 'file', multiple: true, id: 'files', class: 'unseen', accept: '.txt,.md,.markdown,.html,.htm,.pdf,.docx' });
    input.addEventListener('change', async () => {
      await add([...input.files]);
      input.value = '';
    });
    root.append(el('div', { class: 'drop' }, input, el('label', { for: 'files', class: 'button', say: 'choose_files' }), el('p', { class: 'help', say: 'drop_help' })));
  }
  root.append(state, wrong, list);

  async function refresh() {
    try {
      const { documents } = await call('GET', 'v1/documents', undefined, 'documents');
      say(state, documents.length ? 'documents_count' : 'documents_none', { n: documents.length });
      arrange(documents);
    } catch (error) {
      if (!isAborted(error)) complain(...meaning(error));
    }
  }

  /** Show these; rows that stay are not touched, so that nobody loses a place among them. */
  function arrange(documents) {
    const known = new Map([...list.children].map((one) => [one.dataset.key, one]));
    const wanted = documents.map((one) => {
      const key = JSON.stringify(one);
      const found = known.get(key) ?? row(one);
      found.dataset.key = key;
      return found;
    });
    const left = [...list.children].indexOf(document.activeElement?.closest('.documents > li'));
    for (const one of known.values()) if (!wanted.includes(one)) one.remove();
    wanted.forEach((one, place) => {
      if (list.children[place] !== one) list.insertBefore(one, list.children[place] ?? null);
    });
    if (left >= 0 && document.activeElement === document.body) {
      (list.children[Math.min(left, list.children.length - 1)]?.querySelector('button') ?? root.querySelector('#files'))?.focus();
    }
  }

  function row(one) {
    return el('li', {}, el('bdi', { class: 'name' }, one.name), el('span', { class: 'help', say: ['paragraphs_count', { n: one.paragraphs }] }),
      known.uploads ? careful('delete', () => remove(one), ['delete_document', { name: one.name }]) : null);
  }

  async function remove(one) {
    wrong.replaceChildren();
    try {
      await call('DELETE', `v1/documents/${encodeURIComponent(one.id)}`);
      announce('deleted', { name: one.name });
    } catch (error) {
      complain(...meaning(error));
    }
    await refresh();
  }

  async function add(files) {
    wrong.replaceChildren();
    if (!files.length) return;
    say(state, 'adding', { n: files.length });
    let added = 0;
    for (const file of files) { // one at a time: one that is faulty keeps no other out
      try {
        if (file.size * 4 / 3 > known.limits.max_upload - 1000) {
          complain('file_too_large', { name: file.name, most: Math.floor(known.limits.max_upload * 0.75 / 1e6) });
          continue;
        }
        await call('POST', 'v1/documents', { documents: [{ name: file.name, base64: await base64(file) }] });
        added += 1;
      } catch (error) {
        if (error.field) complain('file_refused', { name: file.name, message: error.message });
        else complain(...meaning(error));
      }
    }
    if (added) announce('added', { n: added });
    await refresh();
  }

  return { root, opened: refresh, add };
}

function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(',') + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

/** The texts of plain text files, and the names of the others. */
export async function readTexts(files) {
  const texts = [];
  const refused = [];
  for (const file of files) {
    try {
      if (!PLAIN.test(file.name)) throw new Error('no plain text');
      texts.push(new TextDecoder('utf-8', { fatal: true }).decode(await file.arrayBuffer()).replace(/\r\n?/g, '\n').trim());
    } catch {
      refused.push(file.name);
    }
  }
  return { texts: texts.filter(Boolean), refused };
}
