// How numbers are written. A value is a number, null (not measured), or {undefined: reason}.

const METRICS = {
  perplexity: {label: "Perplexity", digits: 2, better: "lower"},
  bits_per_byte: {label: "Bits per byte", short: "Bits/byte", digits: 3, better: "lower"},
  bleu: {label: "BLEU", digits: 3, better: "higher"},
  rouge1: {label: "ROUGE-1", digits: 3, better: "higher"},
  rouge2: {label: "ROUGE-2", digits: 3, better: "higher"},
  rougeL: {label: "ROUGE-L", digits: 3, better: "higher"},
  pearson: {label: "Correlation", digits: 3, better: "higher"},
  spearman: {label: "Rank correlation", short: "Rank corr.", digits: 3, better: "higher"},
  mae: {label: "Mean absolute error", short: "Error (MAE)", digits: 3, better: "lower"},
  rmse: {label: "Root mean square error", short: "RMSE", digits: 3, better: "lower"},
  ece: {label: "Calibration error", short: "Calibration", digits: 3, better: "lower"},
  bias: {label: "Bias", digits: 3, better: "zero"},
};

function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}

function number(value, digits) {
  return value.toFixed(digits).replace("-", "\u2212");
}

function metricText(value, metric) {
  if (value === null || value === undefined) return "–";
  if (!isNumber(value)) return "undefined";
  return metric === "perplexity" && value >= 100 ? count(value) : number(value, METRICS[metric] ? METRICS[metric].digits : 3);
}

// An error with as many digits as its value has.
function errorText(error, value, metric) {
  return metric === "perplexity" && value >= 100 ? count(error) : metricText(error, metric);
}

function percent(share, digits = 0) {
  return isNumber(share) ? `${number(100 * share, digits)} %` : "–";
}

// 12,345
function count(value) {
  return isNumber(value) ? Math.round(value).toString().replace(/\B(?=(\d{3})+$)/g, ",") : "–";
}

function plural(value, noun) {
  return `${count(value)} ${noun}${value === 1 ? "" : "s"}`;
}

// 0.412–0.655, of a figure with an interval
function range(figure, metric) {
  return `${metricText(figure.low, metric)}–${metricText(figure.high, metric)}`;
}
