// The page's own words in three languages. What was said is said again when the language changes.
import { WORDS } from './words.js';

const KEPT = 'zhaiju.language';
let current = 'en';

function kept() {
  try {
    return localStorage.getItem(KEPT);
  } catch {
    return null; // a browser may forbid it
  }
}

function preferred() {
  for (const name of navigator.languages?.length ? navigator.languages : [navigator.language || 'en']) {
    const tag = name.toLowerCase();
    if (/^zh-(hant|tw|hk|mo)/.test(tag)) return 'zh-Hant';
    if (tag.startsWith('zh')) return 'zh-Hans';
    if (tag.startsWith('en')) return 'en';
  }
  return 'en';
}

export function language() {
  return current;
}

export function start() {
  const wanted = kept();
  current = Object.hasOwn(WORDS, wanted ?? '') ? wanted : preferred();
  document.documentElement.lang = current;
}

export function change(name) {
  current = name;
  try {
    localStorage.setItem(KEPT, name);
  } catch {
    // then it lasts as long as the page
  }
  document.documentElement.lang = name;
  for (const node of document.querySelectorAll('[data-t]')) repeat(node);
  for (const node of document.querySelectorAll('[data-ta]')) repeatAttributes(node);
}

/** A sentence; of a pair of them the one for the number n. */
export function t(key, values = {}) {
  const found = WORDS[current][key] ?? key;
  const text = Array.isArray(found) ? found[values.n === 1 ? 0 : 1] : found;
  return text.replace(/\{(\w+)\}/g, (_, name) => {
    const value = values[name] ?? '';
    return typeof value === 'number' ? value.toLocaleString(current) : String(value);
  });
}

export function percent(value) {
  if (value > 0 && value < 0.001) return '< 0.1 %';
  return `${(100 * value).toFixed(value > 0 && value < 0.1 ? 1 : 0)} %`;
}

function repeat(node) {
  node.textContent = t(node.dataset.t, JSON.parse(node.dataset.tv || '{}'));
}

function repeatAttributes(node) {
  for (const [name, key, values] of JSON.parse(node.dataset.ta)) node.setAttribute(name, t(key, values));
}

/** Make a sentence the text of a node; null: none. */
export function say(node, key, values) {
  if (key === null) {
    delete node.dataset.t;
    node.textContent = '';
    return node;
  }
  node.dataset.t = key;
  node.dataset.tv = JSON.stringify(values || {});
  repeat(node);
  return node;
}

/** Make a sentence an attribute of a node. */
export function sayAs(node, name, key, values = {}) {
  const others = JSON.parse(node.dataset.ta || '[]').filter(([other]) => other !== name);
  node.dataset.ta = JSON.stringify([...others, [name, key, values]]);
  node.setAttribute(name, t(key, values));
  return node;
}

/** Tell what came of it to those who do not see it. */
export function announce(key, values) {
  say(document.getElementById('live'), key, values);
}
