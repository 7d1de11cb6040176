// Label: mark the answer to a question in a paragraph, and save it for training.
import { call, download, drop, isAborted, meaning } from './api.js';
import { placeOf } from './ask.js';
import { bar, button, careful, el, field, isDoing } from './dom.js';
import { announce, say } from './language.js';
import { count, edges, marked, shown, slice, toPoint } from './text.js';

const PROPOSE_AFTER = 700; // milliseconds without typing

function newId() {
  if (crypto.randomUUID) return crypto.randomUUID(); // only where the page came over https, or from this machine
  return [...crypto.getRandomValues(new Uint8Array(16))].map((one) => one.toString(16).padStart(2, '0')).join('');
}

export function labelTab(known) {
  const { limits } = known;
  let paragraphs = [];
  let examples = [];
  let at = 0; // the paragraph shown
  let id = null; // of the example in work; null: a new one
  let start = 0;
  let end = 0;
  let others = []; // further answers of the example, kept as they are
  let isOwn = false; // whether the mark was set by hand
  let steps = [0]; // where characters begin
  let waiting = null;
  let isUnsaved = false;
  const drafts = new Map(); // by paragraph: what was not saved when another was turned to

  const where = el('p', { class: 'where' });
  const wrong = el('p', { class: 'wrong', role: 'alert' });
  const state = el('p', { class: 'state', role: 'status' });
  const number = el('input', { type: 'number', min: 1, id: 'paragraph-number', label: 'paragraph_jump' });
  const total = el('span', { class: 'help' });
  const previous = button('previous', () => go(at - 1), { class: 'quiet' });
  const next = button('next', () => go(at + 1), { class: 'quiet' });
  const question = field('label-question', { label: 'question', hint: 'label_question_hint', rows: 2 });
  const prose = el('div', { class: 'prose markable', tabindex: 0, dir: 'auto', role: 'group', label: 'markable', 'aria-describedby': 'mark-help mark-told' });
  const told = el('p', { class: 'told', id: 'mark-told', 'aria-live': 'polite' });
  const model = el('p', { class: 'model' });
  const saved = el('ul', { class: 'documents examples' });
  const open = button('label_next_open', nextOpen, { class: 'quiet', id: 'label-open' });
  const nudges = el('div', { class: 'nudges' }, nudge('start', 'mark_start'), nudge('end', 'mark_end'));
  const empty = el('p', { class: 'help' });
  const work = el('div', { hidden: true },
    el('div', { class: 'actions turning' }, previous, number, next, total,
      button('label_download', save_file, { class: 'quiet', id: 'label-download' })),
    where, question.root, prose,
    el('p', { class: 'help', id: 'mark-help', say: 'mark_help' }), told, nudges, model,
    el('div', { class: 'actions' },
      button('label_save', () => save(false), { class: 'primary', id: 'label-save' }),
      button('label_none', () => save(true), { id: 'label-none' }),
      button('label_new', () => begin(null), { class: 'quiet', id: 'label-new' }), open, state),
    el('h2', { say: 'label_saved' }), saved);
  const root = el('div', { class: 'single' }, empty, work, wrong);

  function nudge(which, words) {
    const move = (by) => {
      const place = nearest(which === 'start' ? start : end) + by;
      const to = steps[Math.max(0, Math.min(steps.length - 1, place))];
      set(...(which === 'start' ? [to, Math.max(to, end)] : [Math.min(start, to), to]));
    };
    return el('span', { class: 'nudge', role: 'group', label: words }, el('span', { say: words }),
      button('left', () => move(-1), { class: 'quiet', label: `${words}_left`, id: `${which}-left` }),
      el('output', { id: `${which}-at` }),
      button('right', () => move(1), { class: 'quiet', label: `${words}_right`, id: `${which}-right` }));
  }

  const text = () => paragraphs[at]?.text ?? '';
  const nearest = (place) => {
    let [low, high] = [0, steps.length - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (steps[middle] < place) low = middle + 1;
      else high = middle;
    }
    return low;
  };

  /** Set the mark; `own`: by hand, so that no proposal replaces it. */
  function set(from, to, { own = true, redraw = true } = {}) {
    [start, end] = [from, to];
    if (own) {
      isOwn = true;
      say(model, null);
      changed();
    }
    if (redraw) draw();
    tell();
  }

  function draw() {
    const spans = end > start
      ? [{ start, end, make: () => el('mark', { class: isOwn ? '' : 'proposed' }) }]
      : [{ start, end: start, make: () => el('span', { class: 'caret' }) }];
    for (const one of others) {
      if (spans.every((span) => one.end <= span.start || one.start >= span.end)) {
        spans.push({ ...one, make: () => el('span', { class: 'other' }) });
      }
    }
    prose.replaceChildren(marked(text(), spans));
  }

  function tell() {
    root.querySelector('#start-at').textContent = String(start);
    root.querySelector('#end-at').textContent = String(end);
    if (end > start) say(told, 'marked', { text: shown(slice(text(), start, end)), start: String(start), end: String(end) });
    else say(told, 'marked_none');
  }

  function changed() {
    isUnsaved = Boolean(question.input.value.trim());
    say(state, isUnsaved ? 'unsaved' : null);
    state.className = 'state unsaved';
  }

  // --- marking

  /** The native selection in the paragraph, in code points and without white space around it. */
  function selection() {
    const chosen = document.getSelection();
    if (!chosen.rangeCount || chosen.isCollapsed) return null;
    const range = chosen.getRangeAt(0).cloneRange();
    if (!prose.contains(range.startContainer)) return null;
    if (!prose.contains(range.endContainer)) range.setEnd(prose, prose.childNodes.length); // as a triple click selects
    const before = document.createRange();
    before.selectNodeContents(prose);
    before.setEnd(range.startContainer, range.startOffset);
    const first = before.toString().length;
    const raw = text().slice(first, first + range.toString().length);
    const from = first + raw.length - raw.trimStart().length;
    const to = first + raw.trimEnd().length;
    return to > from ? [toPoint(text(), from), toPoint(text(), to)] : null;
  }
  document.addEventListener('selectionchange', () => {
    const found = selection();
    if (found) set(...found, { redraw: false }); // to draw it now would take the selection away
  });
  document.addEventListener('pointerup', () => {
    if (!selection()) return;
    document.getSelection().removeAllRanges();
    draw();
  });
  prose.addEventListener('keydown', (event) => {
    if (isDoing(event, { plain: true })) {
      event.preventDefault();
      save(false);
      return;
    }
    const by = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
    if (event.key === 'Escape') set(start, start);
    if (by === undefined || event.altKey || event.metaKey) return;
    event.preventDefault();
    const from = event.shiftKey ? end : by > 0 && end > start ? end : start;
    const place = nearest(from) + (event.shiftKey || end === start ? by : 0);
    const to = steps[Math.max(0, Math.min(steps.length - 1, place))];
    if (event.shiftKey) set(Math.min(start, to), to);
    else set(to, to);
  });

  // --- the model's answer

  question.input.addEventListener('input', () => {
    changed();
    clearTimeout(waiting);
    waiting = setTimeout(propose, PROPOSE_AFTER);
  });
  question.input.addEventListener('keydown', (event) => {
    if (!isDoing(event, { plain: true })) return;
    event.preventDefault();
    if (event.ctrlKey || event.metaKey) save(false);
    else propose();
  });

  async function propose() {
    clearTimeout(waiting);
    question.refuse(null);
    const asked = question.input.value;
    const told_ = text();
    if (isOwn || !asked.trim() || !told_ || !known.tasks.includes('read')) return;
    if (count(asked) > limits.max_question || count(told_) > limits.max_context) return;
    try {
      const found = await call('POST', 'v1/read', { question: asked, context: told_ }, 'propose');
      if (isOwn || asked !== question.input.value || told_ !== text()) return;
      set(found.start, found.end, { own: false });
      say(model, null);
      model.replaceChildren(el('span', { say: found.answer ? 'proposed' : 'proposed_none' }), bar(found.score));
      delete model.dataset.t;
    } catch (error) {
      if (isAborted(error)) return;
      if (error.field === 'question') question.refuse(...meaning(error));
      else say(wrong, ...meaning(error));
    }
  }

  // --- saving

  async function save(isNone) {
    clearTimeout(waiting);
    drop('propose');
    question.refuse(null);
    say(wrong, null);
    const asked = question.input.value;
    if (!asked.trim()) {
      question.refuse('question_empty');
      question.input.focus();
      return;
    }
    if (!isNone && end <= start) {
      say(wrong, 'mark_first');
      prose.focus();
      return;
    }
    id ??= newId();
    say(state, 'saving');
    try {
      const body = { paragraph: paragraphs[at].id, question: asked, answers: isNone ? [] : [{ start, end }, ...others.filter((one) => one.start !== start || one.end !== end)] };
      const example = await call('PUT', `v1/labels/${encodeURIComponent(id)}`, body);
      examples = [...examples.filter((one) => one.id !== example.id), example];
      list();
      if (isNone) {
        others = [];
        set(start, start, { own: false });
      }
      isOwn = true;
      draw();
      say(model, null);
      isUnsaved = false;
      say(state, isNone ? 'saved_none' : 'saved');
      state.className = 'state';
      announce(isNone ? 'saved_none' : 'saved');
    } catch (error) {
      if (isAborted(error)) return;
      say(state, 'unsaved');
      if (error.field === 'question') question.refuse(...meaning(error));
      else say(wrong, ...meaning(error));
    }
  }

  async function remove(example) {
    say(wrong, null);
    try {
      await call('DELETE', `v1/labels/${encodeURIComponent(example.id)}`);
      examples = examples.filter((one) => one.id !== example.id);
      if (id === example.id) begin(null);
      list();
      root.querySelector('#label-new').focus();
      announce('label_deleted');
    } catch (error) {
      say(wrong, ...meaning(error));
    }
  }

  async function save_file() {
    say(wrong, null);
    try {
      const link = el('a', { href: URL.createObjectURL(await download('v1/labels/file')), download: root.dataset.file || 'labels.json' });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    } catch (error) {
      say(wrong, ...meaning(error));
    }
  }

  // --- which paragraph, which example

  /** Whether an example waits for an answer: it has none, and it is not said that there is none. */
  function isOpen(example) {
    return !example.answers.length && !example.is_impossible;
  }

  function stateOf(example) {
    if (isOpen(example)) return 'waits';
    return example.answers.length ? 'saved' : 'saved_none';
  }

  /** Turn to the next question that waits, from here on and then from the first paragraph. */
  function nextOpen() {
    const far = (one) => {
      const place = paragraphs.findIndex(({ id: own }) => own === one.paragraph);
      return (place - at + paragraphs.length) % paragraphs.length + (one.id === id ? paragraphs.length : 0);
    };
    const waitingOnes = examples.filter(isOpen);
    if (!waitingOnes.length) return;
    const next_ = waitingOnes.reduce((best, one) => (far(one) < far(best) ? one : best));
    const place = paragraphs.findIndex(({ id: own }) => own === next_.paragraph);
    if (place !== at) go(place);
    begin(next_);
    prose.focus();
  }

  /** Take up an example, or begin a new one. */
  function begin(example, asked = '') {
    clearTimeout(waiting);
    drop('propose');
    id = example?.id ?? null;
    isOwn = Boolean(example) && !isOpen(example);
    question.input.value = example?.question ?? asked;
    question.refuse(null);
    say(wrong, null);
    say(model, null);
    isUnsaved = false;
    say(state, example ? stateOf(example) : null);
    state.className = 'state';
    const [answer, ...further] = example?.answers ?? [];
    [start, end] = answer ? [answer.start, answer.end] : [0, 0];
    others = further.map((one) => ({ start: one.start, end: one.end }));
    draw();
    tell();
    propose();
  }

  function list() {
    const here = examples.filter((one) => one.paragraph === paragraphs[at]?.id);
    saved.replaceChildren(...here.map((example) => el('li', {},
      el('button', { type: 'button', class: 'span', on: { click: () => begin(example) } },
        el('bdi', { class: 'name' }, shown(example.question)),
        example.answers.length
          ? el('bdi', { class: 'answer-text' }, shown(example.answers.map((one) => one.text).join(' · ')))
          : el('span', { class: 'help', say: isOpen(example) ? 'waits' : 'holds_none' })),
      careful('delete', () => remove(example), ['delete_example', { question: example.question }]))));
    if (!here.length) saved.append(el('li', { class: 'help', say: 'label_none_yet' }));
    const left = examples.filter(isOpen).length;
    say(total, 'label_total', { paragraphs: paragraphs.length, n: examples.length - left });
    open.hidden = left === 0;
    say(open, 'label_next_open', { n: left });
  }

  function go(place, asked = '') {
    if (isUnsaved) drafts.set(paragraphs[at].id, { id, question: question.input.value, start, end, others, isOwn });
    at = Math.max(0, Math.min(paragraphs.length - 1, place));
    number.value = String(at + 1);
    number.max = String(paragraphs.length);
    previous.disabled = at === 0;
    next.disabled = at >= paragraphs.length - 1;
    where.replaceChildren(...(paragraphs[at] ? [placeOf(paragraphs[at])] : []));
    steps = edges(text());
    begin(null, asked);
    const draft = drafts.get(paragraphs[at]?.id);
    if (draft && !asked) {
      ({ id, start, end, others, isOwn } = draft);
      question.input.value = draft.question;
      draw();
      tell();
      changed();
    }
    drafts.delete(paragraphs[at]?.id);
    list();
  }
  number.addEventListener('change', () => go((Number(number.value) || 1) - 1));

  async function opened() {
    try {
      const found = await call('GET', 'v1/labels', undefined, 'labels');
      const before = paragraphs[at]?.id;
      ({ paragraphs, examples } = found);
      root.dataset.file = found.file;
      work.hidden = !paragraphs.length;
      say(empty, paragraphs.length ? null : 'label_empty');
      const still = paragraphs.findIndex((one) => one.id === before);
      if (still < 0 || before === undefined) go(0);
      else list();
    } catch (error) {
      if (!isAborted(error)) say(wrong, ...meaning(error));
    }
  }

  return {
    root,
    opened,
    /** Whether the paragraph of a quote can be labelled; then it is shown with the question. */
    async correct(quote, asked) {
      await opened();
      const place = paragraphs.findIndex((one) => one.text === quote.paragraph && one.document === quote.document);
      if (place < 0) say(wrong, 'label_not_there');
      else go(place, asked);
      question.input.focus();
    },
  };
}
