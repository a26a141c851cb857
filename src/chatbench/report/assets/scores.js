// The rows of a run's scores file as the views want them: what is undefined is null, with its reason in `why`.

function known(value) {
  return isNumber(value) ? value : null;
}

// What sort of row a predictor is.
function kindOf(predictor) {
  if (predictor === "people") return "people";
  if (/^(fine-tuned|base model|simulator )/.test(predictor)) return "simulator";
  return predictor.startsWith("ceiling, ") ? "ceiling" : "baseline";
}

// 0 at the floor, 1 at the ceiling; null where the ceiling is no better than the floor.
function normalised(value, {floor, ceiling, metric}) {
  const higher = METRICS[metric]?.better === "higher";
  if (![value, floor, ceiling].every(isNumber) || floor === ceiling || (ceiling > floor) !== higher) return null;
  return (value - floor) / (ceiling - floor);
}

// A row of the file, of everything or of one condition or subset.
function scoreOf(row, stratum, splits) {
  return {
    assistant: row.assistant, predictor: row.source, metric: row.metric, kind: kindOf(row.source), stratum,
    mean: known(row.mean), why: row.mean.undefined, error: known(row.standard_error),
    perSplit: splits.map((split) => known(row.per_split[split])),
    low: known(row.interval?.low), high: known(row.interval?.high),
    floor: known(row.floor), floorPredictor: row.floor_source ?? "", ceiling: known(row.ceiling),
  };
}

function strataOf(names) {
  return names.map((name) => ({name, label: name.replace(/^(condition|subset) /, "")}));
}

for (const {scores, simulator} of FIRST.runs) {
  PREDICTOR_LOOKS[simulator] ??= PREDICTOR_LOOKS["fine-tuned"];
  if (!scores) continue;
  scores.figures = [["", scores.rows], ...Object.entries(scores.strata)].flatMap(([stratum, rows]) =>
    rows.map((row) => scoreOf(row, stratum, scores.splits)));
  scores.strata = strataOf(Object.keys(scores.strata));
}
