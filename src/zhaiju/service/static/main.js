// The page: its tabs, its language, the token, and files dropped onto it.
import { call, meaning, onUnauthorised, setToken } from './api.js';
import { askTab } from './ask.js';
import { curvesTab } from './curves.js';
import { documentsTab, readTexts } from './documents.js';
import { el, field } from './dom.js';
import { labelTab } from './label.js';
import { announce, change, language, say, sayAs, start } from './language.js';
import { utteranceTab } from './utterance.js';
import { WORDS } from './words.js';

const main = document.getElementById('main');
const bar = document.getElementById('tabs');
let tabs = [];
let asking = false;

start();
say(document.getElementById('skip'), 'skip');
say(document.getElementById('language-label'), 'language');
sayAs(bar, 'aria-label', 'tabs');
const choice = document.getElementById('language');
for (const name of Object.keys(WORDS)) {
  const option = el('option', { value: name, lang: name }, WORDS[name].name);
  option.selected = name === language();
  choice.append(option);
}
choice.addEventListener('change', () => change(choice.value));
onUnauthorised(askToken);
boot();

async function boot() {
  let known;
  try {
    known = await call('GET', 'v1/capabilities');
  } catch (error) {
    if (error.status !== 401) main.replaceChildren(el('p', { class: 'wrong', role: 'alert', say: meaning(error) }));
    return;
  }
  asking = false;
  const label = known.labels ? labelTab(known) : null;
  const ask = known.tasks.includes('read')
    ? askTab(known, { correct: label && ((quote, question) => {
      open('label', { refresh: false });
      label.correct(quote, question);
    }) })
    : null;
  const documents = known.index ? documentsTab(known) : null;
  const utterance = known.tasks.includes('intent') || known.tasks.includes('slots') ? utteranceTab(known) : null;
  const curves = known.curves ? curvesTab() : null;
  tabs = Object.entries({ ask, documents, utterance, curves, label }).filter(([, tab]) => tab)
    .map(([name, tab]) => ({ name, ...tab }));
  bar.replaceChildren(...tabs.map(({ name }) => el('button', {
    type: 'button', role: 'tab', id: `tab-${name}`, 'aria-controls': `panel-of-${name}`, 'aria-selected': 'false', tabindex: -1,
    say: `tab_${name}`, on: { click: () => open(name) },
  })));
  main.replaceChildren(...tabs.map(({ name, root }) => el('section', {
    role: 'tabpanel', id: `panel-of-${name}`, 'aria-labelledby': `tab-${name}`, hidden: true,
  }, root)));
  if (!tabs.length) main.replaceChildren(el('p', { class: 'help', say: 'nothing_here' }));
  else open(tabs.some(({ name }) => `#${name}` === location.hash) ? location.hash.slice(1) : tabs[0].name);
  dropping({ ask, documents, known });
}

function open(name, { refresh = true } = {}) {
  for (const tab of tabs) {
    const isOpen = tab.name === name;
    const head = document.getElementById(`tab-${tab.name}`);
    head.setAttribute('aria-selected', String(isOpen));
    head.tabIndex = isOpen ? 0 : -1;
    document.getElementById(`panel-of-${tab.name}`).hidden = !isOpen;
    if (isOpen && refresh) tab.opened?.();
  }
  history.replaceState(null, '', `#${name}`);
}

bar.addEventListener('keydown', (event) => {
  const at = tabs.findIndex(({ name }) => document.activeElement?.id === `tab-${name}`);
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
  if (at < 0 || to === undefined) return;
  event.preventDefault();
  const { name } = tabs[(to + tabs.length) % tabs.length];
  open(name);
  document.getElementById(`tab-${name}`).focus();
});

// --- the token

function askToken(wasWrong) {
  if (asking && !wasWrong) return;
  asking = true;
  tabs = [];
  bar.replaceChildren();
  const token = field('token', { label: 'token' });
  token.input.type = 'password';
  if (wasWrong) token.refuse('token_wrong');
  const form = el('form', { class: 'single token-form', novalidate: true }, el('h1', { say: 'token_title' }), el('p', { class: 'help', say: 'token_help' }), token.root,
    el('div', { class: 'actions' }, el('button', { type: 'submit', class: 'primary', say: 'go_on' })));
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    const given = token.input.value.trim();
    if (!given || !/^[\x21-\x7e]+$/.test(given)) { // a header holds nothing else
      token.refuse('token_wrong');
      return;
    }
    setToken(given);
    boot();
  });
  main.replaceChildren(form);
  token.input.focus();
}

// --- files dropped

let stopDropping = () => {};

function dropping({ ask, documents, known }) {
  stopDropping();
  const control = new AbortController();
  stopDropping = () => control.abort();
  const on = (event, does) => document.addEventListener(event, does, { signal: control.signal });
  const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes('Files');
  on('dragover', (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    document.body.classList.add('dropping');
  });
  on('dragleave', (event) => {
    if (event.relatedTarget === null) document.body.classList.remove('dropping');
  });
  on('drop', async (event) => {
    document.body.classList.remove('dropping');
    if (!hasFiles(event)) return;
    event.preventDefault();
    const files = [...event.dataTransfer.files];
    if (known.uploads) {
      open('documents', { refresh: false });
      await documents.add(files);
    } else if (ask) {
      open('ask');
      const { texts, refused } = await readTexts(files);
      if (texts.length) ask.take(texts);
      if (refused.length) ask.refuse('file_no_text', { name: refused.join(', ') });
      if (refused.length) announce('file_no_text', { name: refused.join(', ') });
    }
  });
}
