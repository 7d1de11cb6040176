// Learning curves, drawn here; every panel also as a table.
import { call, isAborted, meaning } from './api.js';
import { button, el } from './dom.js';
import { announce, say } from './language.js';

const SVG = 'http://www.w3.org/2000/svg';
const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [420, 250, 54, 22, 14, 30];
const MOST_DOTS = 30; // of a line; more would hide it
const DASHES = ['', '7 3', '2 3', '9 3 2 3', '5 5', '12 3'];

function draw(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Round numbers that span [low, high], about five of them. */
export function ticks(low, high) {
  if (!(high > low)) return [low];
  const raw = (high - low) / 4;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((one) => one * unit).find((one) => one >= raw);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9) || 0; at * step <= high + step * 1e-6; at += 1) found.push(at * step);
  return found;
}

function figureText(value) {
  if (value === null || value === undefined) return '–';
  if (value !== 0 && Math.abs(value) < 1e-3) return value.toExponential(1);
  return String(Number(value.toPrecision(4)));
}

const plain = (key) => ({ em: 'EM', f1: 'F1' })[key] ?? key.replaceAll('_', ' ');
const shareOf = (key) => key !== 'loss' && key !== 'lr';

/** [step, value] of a run, and for the loss also its lowest and highest. */
function pointsOf(run, key) {
  if (key === 'loss') return run.steps.map((one) => [one.step, one.loss, one.low, one.high]);
  if (key === 'lr') return run.steps.map((one) => [one.step, one.lr]);
  return run.evaluations.filter((one) => key in one.figures).map((one) => [one.step, one.figures[key]]);
}

function name(node, key) {
  if (key === 'loss' || key === 'lr') say(node, `curve_${key}`);
  else node.append(plain(key));
  return node;
}

function panel(runs, key, index) {
  const lines = runs.map((run) => pointsOf(run, key).filter((one) => one[1] !== null));
  const all = lines.flat();
  const heading = name(el('h3', { id: `panel-${index}` }), key);
  if (!all.length) return el('section', { class: 'panel' }, heading, el('p', { class: 'help', say: 'no_points' }));
  const last = Math.max(...all.map((one) => one[0]), 1);
  const values = all.flatMap((one) => one.slice(1)).filter((one) => one !== null);
  let [low, high] = [shareOf(key) ? Math.min(...values) : 0, Math.max(...values)];
  if (high === low) [low, high] = [low - Math.abs(low || 1) / 10, high + Math.abs(high || 1) / 10];
  if (shareOf(key)) high += (high - low) * 0.12; // room for what stands beside a star
  const marks = ticks(low, high);
  low = Math.min(low, marks[0]);
  const x = (step) => LEFT + (step / last) * (WIDTH - LEFT - RIGHT);
  const y = (value) => HEIGHT - BOTTOM - ((value - low) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  const picture = draw('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: 'img', 'aria-labelledby': `panel-${index}`, class: 'curve' });
  for (const value of marks) {
    picture.append(draw('line', { class: 'rule', x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) }),
      draw('text', { x: LEFT - 8, y: y(value) + 4, 'text-anchor': 'end' }, figureText(value)));
  }
  for (const step of ticks(0, last).filter(Number.isInteger)) {
    picture.append(draw('text', { x: x(step), y: HEIGHT - 10, 'text-anchor': 'middle' }, step.toLocaleString('en')));
  }
  const labels = [];
  runs.forEach((run, place) => {
    const points = lines[place];
    if (!points.length) return;
    const path = (list) => list.map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`).join(' ');
    if (key === 'loss') {
      const band = points.filter((one) => one[2] !== null && one[3] !== null);
      const outline = [...band.map((one) => [one[0], one[3]]), ...[...band].reverse().map((one) => [one[0], one[2]])];
      picture.append(draw('polygon', { class: `band run${place % 6}`, points: path(outline) }));
    }
    picture.append(draw('polyline', { class: `line run${place % 6}`, points: path(points), 'stroke-dasharray': DASHES[place % 6] }));
    if (!shareOf(key)) return;
    for (const [step, value] of points) {
      const isBest = step === run.best_step;
      if (!isBest && points.length > MOST_DOTS) continue;
      const dot = isBest
        ? draw('path', { class: `best run${place % 6}`, d: star(x(step), y(value), 9) })
        : draw('circle', { class: `dot run${place % 6}`, cx: x(step), cy: y(value), r: 3 });
      dot.append(draw('title', {}, `${run.name}: ${figureText(value)} @ ${step}`));
      picture.append(dot);
      if (isBest) {
        const isRight = x(step) > WIDTH * 0.6;
        const isTaken = labels.some((one) => Math.abs(one.getAttribute('x') - x(step)) < 110 && Math.abs(one.getAttribute('y') - y(value) + 10) < 16);
        labels.push(draw('text', { class: 'best-label', x: x(step) + (isRight ? 8 : -8), y: y(value) + (isTaken ? 20 : -10), 'text-anchor': isRight ? 'end' : 'start' },
          `${value.toFixed(4)} @ ${step.toLocaleString('en')}`));
      }
    }
  });
  picture.append(...labels); // above all lines
  return el('section', { class: 'panel' }, heading, picture, details(runs, key, lines));
}

function star(x, y, size) {
  const corners = Array.from({ length: 10 }, (_, at) => {
    const [angle, far] = [(Math.PI * at) / 5 - Math.PI / 2, at % 2 ? size * 0.45 : size];
    return `${(x + far * Math.cos(angle)).toFixed(1)} ${(y + far * Math.sin(angle)).toFixed(1)}`;
  });
  return `M${corners.join('L')}Z`;
}

/** The same figures as a table: a row a step, a column a run. */
function details(runs, key, lines) {
  const columns = lines.map((points) => new Map(points.map((one) => [one[0], one[1]])));
  const steps = [...new Set(lines.flat().map((one) => one[0]))].sort((a, b) => a - b);
  const body = steps.map((step) => el('tr', {}, el('th', { scope: 'row' }, String(step)),
    ...columns.map((column, place) => {
      const cell = el('td', {}, figureText(column.get(step)));
      if (shareOf(key) && runs[place].best_step === step && column.has(step)) cell.append(' ★ ', el('span', { class: 'unseen', say: 'best' }));
      return cell;
    })));
  const table = el('table', {}, el('thead', {}, el('tr', {}, el('th', { scope: 'col', say: 'step' }), ...runs.map((run) => el('th', { scope: 'col' }, run.name)))),
    el('tbody', {}, ...body));
  return el('details', {}, el('summary', { say: 'as_table' }), el('div', { class: 'scroll', tabindex: 0, role: 'region', label: 'as_table' }, table));
}

export function curvesTab() {
  const wrong = el('p', { class: 'wrong', role: 'alert' });
  const legend = el('ul', { class: 'legend' });
  const panels = el('div', { class: 'panels' });
  const root = el('div', { class: 'wide' },
    el('div', { class: 'actions' }, el('h2', { say: 'curves' }), button('reload', refresh, { class: 'quiet' })), wrong, legend,
    el('p', { class: 'help', say: 'curves_help' }), panels);

  async function refresh() {
    say(wrong, null);
    try {
      const { runs } = await call('GET', 'v1/runs', undefined, 'runs');
      legend.replaceChildren(...runs.map((run, place) => {
        const sample = draw('svg', { viewBox: '0 0 34 10', width: 34, height: 10, 'aria-hidden': 'true' },
          draw('line', { class: `line run${place % 6}`, x1: 0, x2: 34, y1: 5, y2: 5, 'stroke-dasharray': DASHES[place % 6] }));
        const best = run.evaluations.find((one) => one.step === run.best_step);
        return el('li', {}, sample, el('bdi', {}, run.name),
          best ? el('span', { class: 'help', say: ['best_at', { step: run.best_step, figures: Object.entries(best.figures).map(([key, value]) => `${plain(key)} ${figureText(value)}`).join(', ') }] }) : null);
      }));
      const keys = new Set(runs.flatMap((run) => run.evaluations.flatMap((one) => Object.keys(one.figures))));
      panels.replaceChildren(...[...keys, 'loss', 'lr'].map((key, index) => panel(runs, key, index)));
      announce('runs_shown', { n: runs.length });
    } catch (error) {
      if (!isAborted(error)) say(wrong, ...meaning(error));
    }
  }

  return { root, opened: refresh };
}
