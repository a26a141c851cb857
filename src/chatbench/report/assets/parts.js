// What the page holds: `FIRST` at once, everything else by name when it is first asked for.

const FIRST = JSON.parse(document.getElementById("first").textContent);
const PARTS = new Map(); // name -> promise of its value
const ARRIVALS = new Map(); // name -> function that takes a part which lies in a file of its own

// A promise of the part's value; null where the page has no such part.
function part(name) {
  if (!PARTS.has(name)) PARTS.set(name, wholePage().then(() => (hasPart(name) ? readPart(name) : null)));
  return PARTS.get(name);
}

// The parts come after the scripts, so that the page is drawn before the browser has read all of them.
function wholePage() {
  if (document.readyState !== "loading") return Promise.resolve();
  return new Promise((resolve) => document.addEventListener("DOMContentLoaded", resolve, {once: true}));
}

function hasPart(name) {
  return FIRST.beside.includes(name) || document.getElementById(`part-${name}`) !== null;
}

function readPart(name) {
  const element = document.getElementById(`part-${name}`);
  if (element !== null) return JSON.parse(element.textContent);
  return new Promise((resolve, reject) => {
    ARRIVALS.set(name, resolve);
    const script = document.createElement("script");
    script.src = `parts/${name}.js`;
    script.onerror = () => reject(new Error(`parts/${name}.js is missing beside this page`));
    document.head.append(script);
  });
}

// What the files in `parts/` call.
window.chatbenchPart = (name, value) => {
  ARRIVALS.get(name)?.(value);
};
