// Accuracies per question and assistant, as FIRST.cells holds them in columns.

const CELLS = new Map(); // "source|run|condition" -> Map of "question number|assistant" -> {accuracy, low, high, count}

// Of a source that belongs to a run, or (run "") to all of them.
function cellsOf(source, run = "", condition = "") {
  const key = `${source}|${run}|${condition}`;
  if (!CELLS.has(key)) {
    const group = FIRST.cells.find((each) => each.source === source && each.run === run && each.condition === condition);
    CELLS.set(key, new Map(group ? group.question.map((question, at) => [`${question}|${group.assistant[at]}`, {
      question, assistant: group.assistant[at], accuracy: group.accuracy[at], low: group.low[at], high: group.high[at], count: group.count[at],
    }]) : []));
  }
  return CELLS.get(key);
}

// Names of the sources that begin so, such as "AI alone, ".
function sourcesLike(beginning) {
  return [...new Set(FIRST.cells.map((group) => group.source).filter((source) => source.startsWith(beginning)))];
}

function conditions() {
  return [...new Set(FIRST.cells.map((group) => group.condition).filter(Boolean))];
}

function assistants() {
  return [...new Set([...cellsOf("people").values()].map((cell) => cell.assistant))].sort();
}

function subsets() {
  return [...new Set(FIRST.questions.map((question) => question.subset).filter(Boolean))].sort();
}

// Questions and assistants that both have: [{question, assistant, subset, x, y, ...}] with x and y as cells.
function pairsOf(first, second) {
  return [...second.values()].flatMap((y) => {
    const x = first.get(`${y.question}|${y.assistant}`);
    return x ? [{question: FIRST.questions[y.question], assistant: y.assistant, x, y}] : [];
  });
}

function questionLabel(question) {
  return question.text ? cut(question.text.replace(/\s+/g, " "), 90) : question.id;
}
