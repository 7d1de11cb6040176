// Ask: a question, the answer in its paragraph, and how it came about.
import { call, isAborted, meaning } from './api.js';
import { bar, button, el, field, isDoing } from './dom.js';
import { announce, language, percent, say } from './language.js';
import { tokenSwitch } from './tokens.js';
import { count, marked, paragraphs, shown } from './text.js';

const MOST_OTHERS = 8; // runner-up spans shown

export function askTab(known, { correct }) {
  const { limits } = known;
  const question = field('question', { label: 'question', hint: 'question_hint', rows: 2 });
  const contexts = field('contexts', { label: 'paragraphs', hint: 'paragraphs_hint', rows: 11, help: 'paragraphs_help' });
  const wrong = el('p', { class: 'wrong', role: 'alert' });
  const asking = el('button', { type: 'submit', class: 'primary', say: 'ask' });
  const result = el('section', { class: 'result', label: 'answer', 'aria-busy': 'false' });
  const modes = known.index ? modeSwitch() : null;
  let samples = null;
  let sample = 0;

  const form = el('form', { class: 'asking', novalidate: true },
    question.root, modes?.root, contexts.root, wrong,
    el('div', { class: 'actions' }, asking,
      button('sample', trySample, { class: 'quiet' }),
      el('span', { class: 'help keys', say: 'ask_keys' })));
  const root = el('div', { class: 'columns' }, form, result);
  empty();

  form.addEventListener('submit', (event) => {
    event.preventDefault();
    ask();
  });
  question.input.addEventListener('keydown', (event) => {
    if (isDoing(event, { plain: true })) {
      event.preventDefault();
      ask();
    }
  });
  contexts.input.addEventListener('keydown', (event) => {
    if (isDoing(event)) {
      event.preventDefault();
      ask();
    }
  });

  function modeSwitch() {
    const choose = (value, words) => {
      const input = el('input', { type: 'radio', name: 'mode', value, id: `mode-${value}` });
      input.addEventListener('change', () => show(value));
      return [input, el('label', { for: `mode-${value}`, say: words })];
    };
    const group = el('fieldset', { class: 'modes' }, el('legend', { class: 'unseen', say: 'mode' }),
      ...choose('documents', 'mode_documents'), ...choose('paragraphs', 'mode_paragraphs'));
    function show(value) {
      group.querySelector(`#mode-${value}`).checked = true;
      contexts.root.hidden = value === 'documents';
    }
    show('documents');
    return { root: group, show, isDocuments: () => group.querySelector('#mode-documents').checked };
  }

  async function trySample() {
    samples ??= await (await fetch('static/samples.json')).json();
    const list = samples[language()] ?? samples['zh-Hant'];
    const { question: asked, contexts: told } = list[sample++ % list.length];
    modes?.show('paragraphs');
    question.input.value = asked;
    contexts.input.value = told.join('\n\n');
    ask();
  }

  function refuse(key, values, name = '') {
    const at = name.startsWith('question') ? question : name.startsWith('contexts') && !contexts.root.hidden ? contexts : null;
    if (at === null) say(wrong, key, values);
    else {
      at.refuse(key, values);
      at.input.focus();
    }
  }

  /** The request, or null where it would be refused; then it says why. */
  function request() {
    question.refuse(null);
    contexts.refuse(null);
    say(wrong, null);
    const asked = question.input.value;
    if (!asked.trim()) return refuse('question_empty', {}, 'question');
    if (count(asked) > limits.max_question) {
      return refuse('too_long', { found: count(asked), most: limits.max_question }, 'question');
    }
    if (modes?.isDocuments()) return { question: asked };
    const given = paragraphs(contexts.input.value);
    if (!given.length) return refuse('paragraphs_empty', {}, 'contexts');
    if (given.length > limits.max_contexts) {
      return refuse('too_many', { found: given.length, most: limits.max_contexts }, 'contexts');
    }
    for (const [place, text] of given.entries()) {
      const found = count(text);
      if (found > limits.max_context) {
        return refuse('too_long_at', { at: place + 1, found, most: limits.max_context }, 'contexts');
      }
    }
    return { question: asked, contexts: given };
  }

  async function ask() {
    const body = request();
    if (!body) return;
    result.setAttribute('aria-busy', 'true');
    try {
      const found = await call('POST', 'v1/answer', body, 'ask');
      show(found, body);
      result.setAttribute('aria-busy', 'false');
    } catch (error) {
      if (isAborted(error)) return; // a newer one is on its way
      result.setAttribute('aria-busy', 'false');
      refuse(...meaning(error), error.field ?? '');
    }
  }

  function empty() {
    result.replaceChildren(el('div', { class: 'empty' },
      el('p', { class: 'brackets', 'aria-hidden': 'true' }, '「　」'),
      el('p', { say: known.index ? 'empty_documents' : 'empty_paragraphs' })));
  }

  function show(found, body) {
    const textOf = (one) => one.paragraph ?? body.contexts[one.index];
    const quotes = found.quotes.slice(0, MOST_OTHERS);
    if (!quotes.length) {
      result.replaceChildren(el('p', { class: 'verdict', say: 'not_found' }));
      announce('not_found');
      return;
    }
    const figure = el('figure', { class: 'paragraph' });
    const others = quotes.map((quote, place) => el('li', {},
      el('button', { type: 'button', class: 'span', 'aria-pressed': 'false', on: { click: () => choose(place) } },
        el('span', { class: 'text', dir: 'auto' }, shown(quote.text)), bar(quote.score))));

    function choose(place) {
      const quote = quotes[place];
      const text = textOf(quote);
      others.forEach((one, at) => one.firstChild.setAttribute('aria-pressed', String(at === place)));
      const taken = [{ start: quote.start, end: quote.end, make: () => el('mark') }];
      quotes.forEach((other) => {
        const isHere = other.document_id === quote.document_id && textOf(other) === text && other.number === quote.number && other.index === quote.index;
        if (isHere && taken.every((one) => other.end <= one.start || other.start >= one.end)) {
          taken.push({ start: other.start, end: other.end, make: () => el('span', { class: 'other' }) });
        }
      });
      const prose = el('blockquote', { class: 'prose', dir: 'auto', tabindex: 0, label: 'paragraph' }, marked(text, taken));
      const correcting = correct && quote.paragraph !== null
        ? button('correct', () => correct(quote, body.question), { class: 'quiet' })
        : null;
      figure.replaceChildren(prose, el('figcaption', {}, placeOf(quote)),
        tokenSwitch(text, 'read', quote, 'ask-tokens', limits, correcting));
      const mark = prose.querySelector('mark');
      prose.scrollTop = Math.max(0, mark.offsetTop - prose.offsetTop - prose.clientHeight / 2);
    }

    const verdict = el('p', { class: 'verdict', say: found.found ? 'answer' : 'not_found' });
    const hero = found.found
      ? el('p', { class: 'hero quoted', dir: 'auto' }, shown(found.answer))
      : el('p', { class: 'help', say: 'nearest' });
    const sure = el('div', { class: 'sure-of-it' }, el('span', { say: 'confidence' }), bar(found.confidence, { mark: found.threshold }));
    if (found.threshold !== null) sure.append(el('span', { class: 'help', say: ['threshold', { at: percent(found.threshold) }] }));
    result.replaceChildren(verdict, hero, sure, figure,
      el('h2', { say: 'spans' }), el('p', { class: 'help', say: 'spans_help' }), el('ol', { class: 'spans' }, ...others),
      el('h2', { say: 'candidates' }), el('p', { class: 'help', say: 'candidates_help' }),
      el('ol', { class: 'candidates' }, ...found.candidates.map((one) => candidate(one, textOf(one)))));
    choose(0);
    if (found.found) announce('announce_answer', { answer: found.answer, confidence: percent(found.confidence) });
    else announce('not_found');
  }

  function candidate(one, text) {
    return el('li', {}, el('details', {},
      el('summary', {},
        el('span', { class: 'where' }, placeOf(one), one.selected ? el('span', { class: 'read', say: 'was_read' }) : null),
        one.score === null ? null : bar(one.score),
        el('span', { class: 'start', dir: 'auto' }, shown(text.slice(0, 200)))),
      el('p', { class: 'prose', dir: 'auto' }, shown(text))));
  }

  return {
    root,
    refuse,
    /** Put the text of files into the box. */
    take(texts) {
      modes?.show('paragraphs');
      contexts.input.value = [contexts.input.value.trim(), ...texts].filter(Boolean).join('\n\n');
      announce('taken', { n: texts.length });
    },
  };
}

/** Where a paragraph stands, as a line. */
export function placeOf(one) {
  if (one.document == null) return el('span', { class: 'place', say: ['paragraph_number', { at: (one.index ?? 0) + 1 }] });
  const parts = [el('bdi', {}, one.document)];
  if (one.page != null) parts.push(el('span', { say: ['page', { at: one.page }] }));
  if (one.line != null) parts.push(el('span', { say: ['line', { at: one.line }] }));
  if (one.heading) parts.push(el('bdi', { class: 'heading' }, one.heading));
  return el('span', { class: 'place' }, ...parts);
}
