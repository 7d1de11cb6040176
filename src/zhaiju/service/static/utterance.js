// Intent and slots of one utterance.
import { call, isAborted, meaning } from './api.js';
import { bar, el, field, isDoing } from './dom.js';
import { announce, percent, say } from './language.js';
import { tokenSwitch } from './tokens.js';
import { count, marked, shown } from './text.js';

const HUES = 6;

export function utteranceTab(known) {
  const text = field('utterance', { label: 'utterance', hint: 'utterance_hint', rows: 2 });
  const wrong = el('p', { class: 'wrong', role: 'alert' });
  const result = el('section', { class: 'utterance-result', label: 'result', 'aria-busy': 'false' });
  const form = el('form', { novalidate: true }, text.root, wrong,
    el('div', { class: 'actions' }, el('button', { type: 'submit', class: 'primary', say: 'understand' }), el('span', { class: 'help keys', say: 'ask_keys' })));
  const root = el('div', { class: 'single' }, form, result);
  const hues = new Map();

  form.addEventListener('submit', (event) => {
    event.preventDefault();
    ask();
  });
  text.input.addEventListener('keydown', (event) => {
    if (isDoing(event, { plain: true })) {
      event.preventDefault();
      ask();
    }
  });

  async function ask() {
    text.refuse(null);
    say(wrong, null);
    const given = text.input.value;
    const refuse = (key, values) => {
      text.refuse(key, values);
      text.input.focus();
    };
    if (!given.trim()) return refuse('utterance_empty');
    if (count(given) > known.limits.max_text) return refuse('too_long', { found: count(given), most: known.limits.max_text });
    result.setAttribute('aria-busy', 'true');
    try {
      const [intent, slots] = await Promise.all(['intent', 'slots'].map((task) =>
        known.tasks.includes(task) ? call('POST', `v1/${task}`, { text: given }, task) : null));
      show(given, intent, slots);
    } catch (error) {
      if (isAborted(error)) return;
      if (error.field === 'text') refuse(...meaning(error));
      else say(wrong, ...meaning(error));
    }
    result.setAttribute('aria-busy', 'false');
  }

  function hueOf(label) {
    if (!hues.has(label)) hues.set(label, hues.size % HUES);
    return hues.get(label);
  }

  function show(given, intent, slots) {
    result.replaceChildren();
    if (intent) {
      const isSure = intent.threshold === null || intent.score >= intent.threshold;
      result.append(el('h2', { say: 'intent' }),
        el('p', { class: 'hero' }, shown(intent.label)),
        isSure ? '' : el('p', { class: 'help', say: 'intent_unsure' }),
        el('ol', { class: 'labels' }, ...intent.n_best.map((one) => el('li', {}, el('span', {}, shown(one.label)), bar(one.score)))));
    }
    if (slots) {
      const spans = slots.spans.map((span) => ({
        start: span.start,
        end: span.end,
        make: () => el('span', { class: `slot hue${hueOf(span.label)}` }, el('span', { class: 'slot-label' }, shown(span.label))),
      }));
      result.append(el('h2', { say: 'slots' }), el('p', { class: 'prose slotted', dir: 'auto' }, marked(given, spans)),
        slots.spans.length
          ? el('ul', { class: 'labels' }, ...slots.spans.map((span) => el('li', {},
            el('span', {}, el('span', { class: `key hue${hueOf(span.label)}` }, shown(span.label)), ' ', el('bdi', {}, shown(span.text))), bar(span.score))))
          : el('p', { class: 'help', say: 'slots_none' }));
    }
    result.append(tokenSwitch(given, slots ? 'slots' : 'intent', null, 'utterance-tokens', known.limits));
    announce('announce_utterance', { intent: intent ? `${intent.label}, ${percent(intent.score)}` : '', n: slots?.spans.length ?? 0 });
  }

  return { root };
}
