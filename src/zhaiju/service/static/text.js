// Places in a text. The service counts Unicode code points, strings of JavaScript count UTF-16 units.

function isPair(text, unit) {
  const first = text.charCodeAt(unit);
  if (first < 0xd800 || first > 0xdbff || unit + 1 >= text.length) return false;
  const second = text.charCodeAt(unit + 1);
  return second >= 0xdc00 && second <= 0xdfff;
}

/** How many code points a text has. */
export function count(text) {
  let points = 0;
  for (let unit = 0; unit < text.length; unit += isPair(text, unit) ? 2 : 1) points += 1;
  return points;
}

/** UTF-16 units of places in code points, in the order given; one pass however many there are. */
export function toUnits(text, places) {
  const found = new Array(places.length);
  let unit = 0;
  let point = 0;
  for (const at of [...places.keys()].sort((a, b) => places[a] - places[b])) {
    while (point < places[at] && unit < text.length) {
      unit += isPair(text, unit) ? 2 : 1;
      point += 1;
    }
    found[at] = unit;
  }
  return found;
}

/** The code point at a UTF-16 unit. */
export function toPoint(text, unit) {
  return count(text.slice(0, unit));
}

export function slice(text, start, end) {
  const [from, to] = toUnits(text, [start, end]);
  return text.slice(from, to);
}

/** Places in code points where what a reader takes for a character begins, and the text's end. */
export function edges(text) {
  const found = [];
  let point = 0;
  if (Intl.Segmenter && text.length < 20000) {
    for (const { segment } of new Intl.Segmenter().segment(text)) {
      found.push(point);
      point += count(segment);
    }
  } else {
    for (const _ of text) found.push(point++);
  }
  found.push(point);
  return found;
}

/** The text with control characters made visible, each as one character of the same length. */
export function shown(text) {
  return text.replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f]/g, (one) =>
    one === '\u007f' ? '\u2421' : String.fromCharCode(0x2400 + one.charCodeAt(0)),
  );
}

/** The paragraphs of a box: separated by blank lines. */
export function paragraphs(text) {
  return text.split(/\n[^\S\n]*\n/).map((one) => one.replace(/^\n+|\n+$/g, '')).filter((one) => one.trim());
}

/** A text with marks in it; spans of {start, end, make} do not overlap, and make() gives the element for one. */
export function marked(text, spans) {
  const sorted = [...spans].sort((a, b) => a.start - b.start);
  const units = toUnits(text, sorted.flatMap(({ start, end }) => [start, end]));
  const fragment = document.createDocumentFragment();
  let done = 0;
  sorted.forEach(({ make }, place) => {
    const [from, to] = [units[2 * place], units[2 * place + 1]];
    fragment.append(shown(text.slice(done, from)));
    const element = make();
    element.prepend(shown(text.slice(from, to)));
    fragment.append(element);
    done = to;
  });
  fragment.append(shown(text.slice(done)));
  return fragment;
}
