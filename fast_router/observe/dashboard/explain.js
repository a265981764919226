// The dialog that says why: for each deployment of a model, whether it may be picked now, and what the strategy compares.
export function explainer({ el, text, ask, figure }) {
  const dialog = document.getElementById("explain");
  const $ = (part) => dialog.querySelector(`#explain-${part}`);
  let answers = [];

  function draw() {
    const found = answers[$("worker").selectedIndex] ?? answers[0];
    const keys = Object.keys(found.deployments[0]?.compared ?? {});
    const words = keys.map((key) => key.replaceAll("_", " "));
    text($("text"), `Chosen by ${found.strategy.replaceAll("_", " ")}, which compares ${words.join(", ") || "nothing"}. ${found.eligible} of ${found.deployments.length} may be picked now.${found.lane ? ` Lane: ${found.lane}.` : ""}`);
    const head = el("tr", {}, el("th", { scope: "col" }, "server"), el("th", { scope: "col" }, "may be picked"), el("th", { scope: "col" }, "why not"), ...words.map((word) => el("th", { class: "n", scope: "col" }, word)));
    const rows = found.deployments.slice(0, 200).map((row) => el("tr", {},
      el("td", { class: "server", title: row.full_id }, el("span", {}, row.server), el("code", {}, row.id)),
      el("td", {}, el("span", { class: `pill ${row.eligible ? "up" : "resting"}` }, row.eligible ? "yes" : "no")),
      el("td", { class: "why" }, row.why.join("; ")),
      ...keys.map((key) => el("td", { class: "n" }, typeof row.compared[key] === "number" ? figure(row.compared[key]) : "–"))));
    $("table").replaceChildren(el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows)));
  }
  $("worker").onchange = draw;

  return async (model) => {
    text($("title"), `Why ${model}?`);
    text($("text"), "Asking the workers …");
    $("table").replaceChildren();
    $("choice").hidden = true;
    dialog.showModal();
    try {
      const { explained } = await ask(`api/explain?model=${encodeURIComponent(model)}`);
      answers = explained;
      if (!answers.length) return text($("text"), "No worker has this model any more.");
      $("worker").replaceChildren(...answers.map((each) => el("option", {}, `worker ${each.pid}`)));
      $("choice").hidden = answers.length < 2;
      draw();
    } catch (error) { text($("text"), error.message); }
  };
}
