// Reads Prometheus' text format, and computes rates and quantiles from two pages of it.

/** Parses a page to a map from the name of a series to a list of `{ labels, value }`. */
export function parse(text) {
  const series = new Map();
  for (const line of text.split('\n')) {
    if (line === '' || line.startsWith('#')) continue;
    const match = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line);
    if (!match) continue;
    const list = series.get(match[1]) ?? [];
    list.push({ labels: labelsOf(match[2] ?? ''), value: Number(match[3].replace('Inf', 'Infinity')) });
    series.set(match[1], list);
  }
  return series;
}

function labelsOf(text) {
  const labels = {};
  for (const [, name, value] of text.matchAll(/([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g)) {
    labels[name] = value.replace(/\\(.)/g, (_, character) => (character === 'n' ? '\n' : character));
  }
  return labels;
}

const matches = (labels, wanted) => Object.entries(wanted).every(([name, value]) => labels[name] === value);

/** Returns the sum of the values of a series with the labels `wanted`. */
export function sum(page, name, wanted = {}) {
  return (page.get(name) ?? []).reduce((total, { labels, value }) => (matches(labels, wanted) ? total + value : total), 0);
}

/** Returns how much a counter has grown per second between two pages. A restart of the server counts from zero. */
export function rate(before, now, name, wanted = {}) {
  const [old, current] = [sum(before.page, name, wanted), sum(now.page, name, wanted)];
  return (current >= old ? current - old : current) / Math.max(0.001, (now.at - before.at) / 1000);
}

/** Returns a quantile of the observations of a histogram between two pages, or null if there are none. */
export function quantile(before, now, name, q, wanted = {}) {
  const buckets = new Map();
  const add = (page, sign) => {
    for (const { labels, value } of page.get(`${name}_bucket`) ?? []) {
      if (!matches(labels, wanted)) continue;
      const bound = labels.le === '+Inf' ? Infinity : Number(labels.le);
      buckets.set(bound, (buckets.get(bound) ?? 0) + sign * value);
    }
  };
  add(now.page, 1);
  add(before.page, -1);
  const sorted = [...buckets].sort(([a], [b]) => a - b);
  const total = sorted.at(-1)?.[1] ?? 0;
  if (total <= 0) return null;
  let [lower, below] = [0, 0];
  for (const [bound, cumulated] of sorted) {
    if (cumulated >= q * total) {
      if (bound === Infinity) return lower;
      const share = cumulated > below ? (q * total - below) / (cumulated - below) : 1;
      return lower + (bound - lower) * share;
    }
    [lower, below] = [bound, cumulated];
  }
  return lower;
}
