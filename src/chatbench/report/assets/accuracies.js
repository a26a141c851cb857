// Accuracies per question and assistant, as FIRST.accuracies holds them in columns.

const ACCURACIES = new Map(); // "predictor|run|condition" -> Map of "question number|assistant" -> {accuracy, low, high, count}

// Of a predictor that belongs to a run, or (run "") to all of them.
function accuraciesOf(predictor, run = "", condition = "") {
  const key = `${predictor}|${run}|${condition}`;
  if (!ACCURACIES.has(key)) {
    const group = FIRST.accuracies.find((each) => each.predictor === predictor && each.run === run && each.condition === condition);
    ACCURACIES.set(key, new Map(group ? group.question.map((question, at) => [`${question}|${group.assistant[at]}`, {
      question, assistant: group.assistant[at], accuracy: group.accuracy[at], low: group.low[at], high: group.high[at], count: group.count[at],
    }]) : []));
  }
  return ACCURACIES.get(key);
}

// Names of the predictors that begin so, such as "AI alone, ".
function predictorsLike(beginning) {
  return [...new Set(FIRST.accuracies.map((group) => group.predictor).filter((predictor) => predictor.startsWith(beginning)))];
}

function conditions() {
  return [...new Set(FIRST.accuracies.map((group) => group.condition).filter(Boolean))];
}

function assistants() {
  return [...new Set([...accuraciesOf("people").values()].map((cell) => cell.assistant))].sort();
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
