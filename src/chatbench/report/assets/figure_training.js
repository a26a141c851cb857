// Curves from the trainer's logs, one line per split.

function curveRecords(run) {
  return run.curves.flatMap(({split, points}) => points.flatMap((point) => [
    isNumber(point.loss) ? {split, step: point.step, epoch: point.epoch, kind: "training", loss: point.loss, perplexity: Math.exp(point.loss)} : null,
    isNumber(point.eval_loss) ? {split, step: point.step, epoch: point.epoch, kind: "held out", loss: point.eval_loss,
      perplexity: point.eval_perplexity ?? Math.exp(point.eval_loss)} : null,
  ].filter(Boolean)));
}

function lossFigure(run) {
  return curveFigure(run, "loss", "Loss while training", "Nats per scored token. Lines: on the training examples, mean since the last point; marks: on examples held back, after each epoch.");
}

function perplexityFigure(run) {
  return curveFigure(run, "perplexity", "Perplexity while training", "The exponential of the loss.");
}

function curveFigure(run, value, title, says) {
  const records = curveRecords(run).filter((r) => isNumber(r[value]));
  if (!records.length) return null;
  const splits = [...new Set(records.map((r) => r.split))];
  const colour = (r) => seriesColour(splits.indexOf(r.split));
  const symbol = (split) => SYMBOLS[splits.indexOf(split) % SYMBOLS.length];
  return figureCard({
    title, says, file: `${run.key}-${value}`, records,
    columns: ["split", "step", "epoch", "kind", value].map((key) => ({key, words: key === "split" || key === "kind"})),
    legend: splits.map((split, at) => ({label: words(split), colour: seriesColour(at), symbol: symbol(split)})),
    draw: (width) => plot(width, {
      height: 320, marginLeft: 52, marginBottom: 40,
      x: {label: "Step", labelAnchor: "center", labelArrow: "none", zero: true},
      y: {label: value === "loss" ? "Loss (nats per token)" : "Perplexity (log scale)", labelArrow: "none", type: value === "loss" ? "linear" : "log", zero: value === "loss", ticks: 6, tickFormat: (v) => String(v), nice: true},
      symbol: {domain: splits, range: splits.map(symbol)},
      marks: [
        ...gridMarks({y: true}),
        Plot.line(records.filter((r) => r.kind === "training"), {x: "step", y: value, z: "split", stroke: colour, strokeWidth: 1.5, strokeOpacity: 0.75}),
        Plot.dot(records.filter((r) => r.kind === "held out"), {x: "step", y: value, symbol: "split", fill: colour, stroke: "var(--card)", r: 5}),
        Plot.tip(records, Plot.pointer({x: "step", y: value, title: (r) => `${words(r.split)}, step ${count(r.step)}\n${r.kind}: ${number(r[value], 3)}`, ...tip()})),
      ],
    }),
  });
}
