"use strict";

const isNumber = value => value !== null && value !== undefined && Number.isFinite(value);

/** A number to read: three decimals where it is of ordinary size, else three digits. */
function short(value) {
  if (!isNumber(value)) return "–";
  const size = Math.abs(value);
  if (value === 0 || (Number.isInteger(value) && size < 1e6)) return String(value);
  return size >= 0.001 && size < 1000
    ? value.toFixed(3)
    : size >= 1000 && size < 1e6
      ? value.toFixed(0)
      : value.toExponential(2);
}

const signed = value => (value > 0 ? "+" : "") + short(value).replace("-", "−");

/**
 * An exponential moving average without its bias towards 0 at the start: the mean of what came so far, weighted by
 * weight^age. Values that are missing are passed over and stay missing.
 */
function smooth(values, weight) {
  let sum = 0,
    norm = 0;
  return values.map(value => {
    if (!isNumber(value)) return null;
    sum = weight * sum + (1 - weight) * value;
    norm = weight * norm + (1 - weight);
    return sum / norm;
  });
}

/** Several columns over the union of their steps: [steps, values of the first, ...], null where one has none. */
function align(columns) {
  const steps = [...new Set(columns.flatMap(column => column.steps))].sort((a, b) => a - b);
  const place = new Map(steps.map((step, index) => [step, index]));
  return [
    steps,
    ...columns.map(({steps: own, values}) => {
      const out = new Array(steps.length).fill(null);
      own.forEach((step, index) => {
        out[place.get(step)] = isNumber(values[index]) ? values[index] : null;
      });
      return out;
    }),
  ];
}

/** The two-sided 95 % point of Student's t. */
function studentT(freedom) {
  const table = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.16, 2.145, 2.131, 2.12, 2.11,
    2.101, 2.093, 2.086,
  ];
  return freedom <= table.length ? table[freedom - 1] : 1.96 + 2.5 / freedom;
}

/** The mean of columns at the steps that all have, with its 95 % interval over them (none of a single one). */
function average(columns) {
  const [steps, ...rows] = align(columns);
  const out = {steps: [], values: [], low: [], high: []};
  steps.forEach((step, index) => {
    const there = rows.map(row => row[index]).filter(isNumber),
      count = there.length;
    if (count < columns.length) return;
    const mean = there.reduce((a, b) => a + b, 0) / count;
    const square = there.reduce((a, b) => a + (b - mean) ** 2, 0);
    const half = count > 1 ? studentT(count - 1) * Math.sqrt(square / (count * (count - 1))) : null;
    out.steps.push(step);
    out.values.push(mean);
    out.low.push(half === null ? null : mean - half);
    out.high.push(half === null ? null : mean + half);
  });
  return out;
}
