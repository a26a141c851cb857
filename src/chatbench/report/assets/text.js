// Elements and text. Whatever comes from data or models becomes text nodes, never markup.

// Control characters but tab and newline, lone surrogates, and what changes the direction or is not seen at all.
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060-\u2069\ufeff\p{Cs}]/gu;
const LONG_TEXT = 6000; // characters; a longer text is folded

// el("p", {class: "note", "aria-label": "...", onclick: f}, "text", element, [more]): null and false are left out.
function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) element.style.setProperty(name, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of [children].flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : shown(String(child)));
  }
}

// The text with everything unseen made visible: U+202E in a marked span.
function shown(text) {
  const fragment = document.createDocumentFragment();
  let from = 0;
  for (const match of text.matchAll(UNSEEN)) {
    if (match.index > from) fragment.append(text.slice(from, match.index));
    const code = match[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    const mark = document.createElement("span");
    mark.className = "unseen";
    mark.title = "an invisible character";
    mark.textContent = `U+${code}`;
    fragment.append(mark);
    from = match.index + match[0].length;
  }
  if (from < text.length) fragment.append(text.slice(from));
  return fragment;
}

// For places that hold text only (titles, figures, file names): the same without elements.
function shownPlain(text) {
  return text.replace(UNSEEN, (found) => `[U+${found.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}]`);
}

// What a person or a model wrote: its own direction, its line breaks, folded if it is very long.
function writtenText(text, limit = LONG_TEXT) {
  const block = el("div", {class: "written", dir: "auto"});
  if (text.length <= limit) {
    block.append(shown(text));
    return block;
  }
  const first = beginningOf(text, limit);
  block.append(shown(first));
  const rest = text.length - first.length;
  const more = el("button", {type: "button", class: "more", onclick: () => {
    more.remove();
    block.append(shown(text.slice(first.length)));
  }}, `Show ${count(rest)} more characters`);
  block.append(more);
  return block;
}

// A predictor's or a subset's name as words; a simulator's own name stays as it is, as in `Predictor.title`.
function words(name) {
  return name.startsWith("simulator ") ? name : name.replaceAll("_", " ");
}

function cut(text, length) {
  return text.length <= length ? text : `${beginningOf(text, length - 1).trimEnd()}…`;
}

// At most so many code units, never half a character: half of one would be shown as unseen, U+D83D.
function beginningOf(text, length) {
  return text.slice(0, /[\ud800-\udbff]/.test(text[length - 1] ?? "") ? length - 1 : length);
}
