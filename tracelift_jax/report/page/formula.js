"use strict";

const isCode = run => run.reward.weight !== undefined;

/** The equation of a run's rewards, in words. */
function equation(run) {
  const {kind, shaping, weight} = run.reward,
    code = isCode(run);
  const outcome = code ? "exec" : "½ · right",
    share = code ? `${weight} · ` : "½ · ",
    gain = code ? "coefficient" : "uplift";
  const shaped =
    shaping === "product" ? `grade · ${gain}` : `(grade · ${gain} where it is ≥ 0, else (1 − grade) · ${gain})`;
  const quality = {exec_only: "", rm_only: "grade", uplift_only: gain, tracelift: shaped}[kind];
  if (!quality) return code ? "reward = exec" : "reward = right";
  return `reward = ${outcome} + ${share}${quality}${run.reward.clip ? ", clipped to [0, 1]" : ""}`;
}

/** How one trace's reward came about: texts and numbers. */
function workedReward(data, run, trace) {
  const {traces} = data,
    value = num(traces.reward[trace], x => x.toFixed(4));
  if (!run.reward) return [value];
  const {kind, shaping, weight} = run.reward,
    code = isCode(run);
  const outcome = traces.outcome_part[trace],
    quality = traces.quality_part[trace];
  const four = x => x.toFixed(4).replace("-", "−");
  const parts = [num(outcome, four), kind === "exec_only" ? null : el("span", {}, " + ", num(quality, four))];
  const rest = traces.reward[trace] - outcome - quality;
  if (Math.abs(rest) > 1e-5) {
    parts.push(
      el(
        "span",
        {},
        traces.flags[trace] & 32 ? " (not counted)" : ` ${rest < 0 ? "−" : "+"} ${Math.abs(rest).toFixed(4)} clipped`,
      ),
    );
  }
  if (kind === "exec_only" && !code)
    return [value, ": the answer is ", traces.verdicts[trace][0] === "o" ? "right" : "not right"];
  const worked = [];
  if (kind !== "exec_only") {
    const gain = code ? traces.coefficient[trace] : traces.uplift[trace],
      grade = traces.score[trace];
    const share = code ? String(weight) : "½";
    const graded = gain < 0 && shaping === "sign_aware" ? `(1 − ${four(grade)})` : four(grade);
    const term = {
      rm_only: four(grade),
      uplift_only: four(gain),
      tracelift: `${graded} · ${gain < 0 ? `(${four(gain)})` : four(gain)}`,
    }[kind];
    worked.push(
      el(
        "span",
        {class: "soft"},
        `: outcome ${code ? "exec" : `½ · ${Math.round(2 * outcome)}`}, quality ${share} · ${term}`,
      ),
    );
  }
  return [value, " = ", parts, worked].flat();
}

/** The uplift of a trace with the counts or probabilities it comes from. */
function workedUplift(data, run, trace) {
  const {traces} = data,
    value = num(traces.uplift[trace], signed);
  if (run.measured.uplift === "none") return ["not measured"];
  if (run.measured.uplift === "likelihood") {
    return [
      value,
      ": the executor gives the reference answer probability ",
      num(traces.likelihood[trace]),
      " with the reasoning, ",
      num(traces.baseline_likelihood[trace]),
      " without",
    ];
  }
  const [[right, judged], [alone, without]] = [traces.with_counts[trace], traces.without_counts[trace]];
  const said = [value, `: right in ${right} of ${judged} with the reasoning, in ${alone} of ${without} without`];
  return isNumber(traces.coefficient[trace])
    ? [...said, ", coefficient ", num(traces.coefficient[trace], signed)]
    : said;
}
