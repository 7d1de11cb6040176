// What the tokenizer saw: every token a piece of the text, with its place on hover, focus and arrow keys.
import { call } from './api.js';
import { el } from './dom.js';
import { say } from './language.js';
import { count, shown, toUnits } from './text.js';

/** A text as the encoder of a task sees it; `mark` ({start, end}) is the answer in it. */
export async function tokenView(text, task, mark, purpose) {
  const { tokens } = await call('POST', 'v1/tokens', { text, task }, purpose);
  const told = el('p', { class: 'told', id: `${purpose}-told`, 'aria-live': 'polite', say: ['tokens_help', { n: tokens.length }] });
  const list = el('p', { class: 'tokens prose', dir: 'auto', role: 'group', label: 'tokens_label' });
  const units = toUnits(text, tokens.flatMap(({ start, end }) => [start, end]));
  let done = 0;
  tokens.forEach((token, place) => {
    const from = Math.max(done, units[2 * place]);
    const to = Math.max(from, units[2 * place + 1]);
    list.append(shown(text.slice(done, from)));
    const inside = mark && token.start < mark.end && token.end > mark.start;
    list.append(el('span', {
      class: `token${inside ? ' inside' : ''}${to === from ? ' thin' : ''}`, tabindex: place ? -1 : 0, role: 'button',
      'data-place': place,
    }, shown(text.slice(from, to))));
    done = to;
  });
  list.append(shown(text.slice(done)));

  const pieces = list.querySelectorAll('.token');
  let at = 0;
  function tell(place) {
    const { token, id, start, end } = tokens[place];
    say(told, 'token_told', { token: shown(token), id: String(id), start: String(start), end: String(end) });
    pieces[at]?.classList.remove('told-of');
    pieces[place].classList.add('told-of');
    pieces[at].tabIndex = -1;
    at = place;
    pieces[at].tabIndex = 0;
  }
  const placeOf = (event) => event.target.closest?.('.token')?.dataset.place;
  for (const event of ['pointerover', 'focusin', 'click']) {
    list.addEventListener(event, (happened) => {
      const place = placeOf(happened);
      if (place !== undefined) tell(Number(place));
    });
  }
  list.addEventListener('keydown', (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    pieces[Math.max(0, Math.min(pieces.length - 1, at + step))].focus();
  });
  return el('div', { class: 'token-view' }, list, told);
}

/** A switch that shows the tokens of a text below itself, and what else stands beside it. */
export function tokenSwitch(text, task, mark, purpose, limits, beside = null) {
  const place = el('div');
  const wrong = el('p', { class: 'wrong', role: 'alert' });
  const toggle = el('button', { type: 'button', class: 'quiet', 'aria-expanded': 'false', say: 'tokens_show' });
  toggle.addEventListener('click', async () => {
    const opening = toggle.getAttribute('aria-expanded') === 'false';
    toggle.setAttribute('aria-expanded', String(opening));
    say(toggle, opening ? 'tokens_hide' : 'tokens_show');
    place.replaceChildren();
    say(wrong, null);
    if (!opening) return;
    const characters = count(text);
    if (characters > limits.max_text) {
      say(wrong, 'too_long', { found: characters, most: limits.max_text });
      return;
    }
    try {
      place.replaceChildren(await tokenView(text, task, mark, purpose));
    } catch (error) {
      if (error.name !== 'AbortError') say(wrong, 'error_invalid', { message: error.message });
    }
  });
  return el('div', { class: 'token-switch' }, toggle, beside, wrong, place);
}
