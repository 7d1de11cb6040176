// Elements. All text goes in as text; nothing is ever parsed as HTML.
import { percent, say, sayAs } from './language.js';

/** An element: attributes, `say` ([key, values] or key), `label` (its aria-label, likewise), `on` (events). */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === 'say') say(node, ...[value].flat());
    else if (name === 'label') sayAs(node, 'aria-label', ...[value].flat());
    else if (name === 'hint') sayAs(node, 'placeholder', ...[value].flat());
    else if (name === 'on') for (const [event, does] of Object.entries(value)) node.addEventListener(event, does);
    else node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** A button that does not submit. */
export function button(words, does, attributes = {}) {
  return el('button', { type: 'button', say: words, on: { click: does }, ...attributes });
}

/** A button that asks once more before it does. */
export function careful(words, does, label) {
  let waiting = null;
  const node = button(words, () => {
    if (waiting === null) {
      waiting = setTimeout(calm, 5000);
      node.classList.add('sure');
      say(node, 'sure');
    } else {
      calm();
      does();
    }
  }, { class: 'quiet', label });
  function calm() {
    clearTimeout(waiting);
    waiting = null;
    node.classList.remove('sure');
    say(node, ...[words].flat());
  }
  node.addEventListener('blur', calm);
  return node;
}

/** A labelled box with a place for what is wrong with it. */
export function field(id, { label, hint, rows = 0, help, value = '' }) {
  const input = el(rows ? 'textarea' : 'input', { id, rows: rows || null, hint, autocomplete: 'off', spellcheck: 'false' });
  input.value = value;
  const wrong = el('p', { class: 'wrong', id: `${id}-wrong`, role: 'alert' });
  const helping = help && el('p', { class: 'help', id: `${id}-help`, say: help });
  input.setAttribute('aria-describedby', `${id}-wrong${help ? ` ${id}-help` : ''}`);
  const root = el('div', { class: 'field' }, el('label', { for: id, say: label }), input, helping, wrong);
  return {
    root,
    input,
    refuse(key, values) {
      say(wrong, key, values);
      if (key === null) input.removeAttribute('aria-invalid');
      else input.setAttribute('aria-invalid', 'true');
    },
  };
}

/** A share of one as a bar and in figures. */
export function bar(value, { mark = null } = {}) {
  const filled = el('span', { class: 'filled' });
  filled.style.width = `${Math.max(0, Math.min(1, value)) * 100}%`;
  const track = el('span', { class: 'track', 'aria-hidden': 'true' }, filled);
  if (mark !== null) {
    const line = el('span', { class: 'threshold' });
    line.style.left = `${mark * 100}%`;
    track.append(line);
  }
  return el('span', { class: 'bar' }, track, el('span', { class: 'figure' }, percent(value)));
}

/** Whether a key press means "do it"; one that ends the typing of a Chinese character does not. */
export function isDoing(event, { plain = false } = {}) {
  if (event.key !== 'Enter' || event.isComposing || event.keyCode === 229) return false;
  return event.ctrlKey || event.metaKey || (plain && !event.shiftKey && !event.altKey);
}
