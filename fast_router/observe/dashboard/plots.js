// The last hour as plots: calls, latencies, first tokens, calls in flight, each on a canvas of its own.
export function plotter({ el, text, sync, figure, seconds, clock, past, section }) {
  const PLOTS = [
    ["Calls per second", [["ok", "succeeded", "--green"], ["failed", "failed", "--red"]], figure],
    ["Latency", [["p50", "p50", "--blue"], ["p95", "p95", "--violet"], ["p99", "p99", "--amber"]], seconds],
    ["First token", [["first_p50", "p50", "--blue"], ["first_p95", "p95", "--violet"]], seconds],
    ["In flight", [["in_flight", "calls", "--cyan"]], figure],
  ];
  function plots() {
    if (!past()) return;
    sync(section, PLOTS, (plot) => plot[0],
      (plot) => {
        const canvas = el("canvas", { role: "img", "aria-label": `${plot[0]}, last hour` });
        const node = el("div", { class: "plot" }, el("h3", {}, plot[0], ...plot[1].map((line) => el("i", { style: { "--c": `var(${line[2]})` } }, line[1]))), canvas, el("output", { hidden: true }));
        canvas.addEventListener("pointermove", (event) => { node.at = event.offsetX / canvas.clientWidth; line(node, plot); });
        canvas.addEventListener("pointerleave", () => { node.at = undefined; line(node, plot); });
        return node;
      },
      (node, plot) => line(node, plot));
  }
  function nice(value) {
    const power = 10 ** Math.floor(Math.log10(value));
    return [1, 2, 2.5, 5, 10].find((step) => step * power >= value) * power;
  }
  function line(node, [, lines, shown]) {
    const canvas = node.querySelector("canvas"), output = node.querySelector("output");
    const width = canvas.clientWidth, height = canvas.clientHeight, ratio = devicePixelRatio || 1;
    if (!width) return;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    const pen = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    pen.scale(ratio, ratio);
    // A process that is young has little to show: its minutes get the whole width, five of them at the least.
    const every = lines.map(([key]) => past().series[key] ?? []);
    const length = Math.max(...every.map((each) => each.length), 2);
    const first = Math.min(...every.map((each) => { const at = each.findIndex((value) => value !== null); return at < 0 ? length : at; }));
    const start = Math.max(0, Math.min(first, length - 1 - 300 / past().every));
    const series = every.map((each) => each.slice(start));
    const count = length - start, span = ((count - 1) * past().every) / 60;
    const peak = Math.max(0, ...series.flatMap((each) => each.filter((value) => value !== null)));
    const top = peak > 0 ? nice(peak) : 1, room = height - 18;
    const x = (place) => (place / (count - 1)) * width, y = (value) => 4 + (room - 4) * (1 - value / top);
    pen.font = "11px system-ui, sans-serif";
    pen.lineWidth = 1;
    for (const share of [0, 0.5, 1]) {
      pen.strokeStyle = colour("--line");
      pen.beginPath(); pen.moveTo(0, Math.round(y(top * share)) + 0.5); pen.lineTo(width, Math.round(y(top * share)) + 0.5); pen.stroke();
      pen.fillStyle = colour("--dim");
      if (share && peak > 0) pen.fillText(shown(top * share), 2, y(top * share) + 12);
    }
    for (const [share, align] of [[0, "left"], [1 / 3, "center"], [2 / 3, "center"], [1, "right"]]) {
      const minutes = span * (1 - share);
      pen.textAlign = align;
      pen.fillText(minutes ? `−${minutes < 10 ? minutes.toFixed(1).replace(".0", "") : Math.round(minutes)} min` : "now", share * width, height - 3);
    }
    pen.textAlign = "left";
    lines.forEach(([, , name], at) => {
      pen.strokeStyle = pen.fillStyle = colour(name);
      pen.lineWidth = 1.6;
      pen.lineJoin = "round";
      let from = null;
      const end = (to) => {
        if (from === null || at || lines.length > 2) return;
        pen.globalAlpha = 0.1; pen.lineTo(x(to), y(0)); pen.lineTo(x(from), y(0)); pen.fill(); pen.globalAlpha = 1;
      };
      pen.beginPath();
      series[at].forEach((value, place) => {
        if (value === null) { pen.stroke(); end(place - 1); pen.beginPath(); from = null; return; }
        from === null ? pen.moveTo(x(place), y(value)) : pen.lineTo(x(place), y(value));
        if (from === null) from = place;
        if (from === place && (series[at][place + 1] ?? null) === null) pen.fillRect(x(place) - 1, y(value) - 1, 2, 2);
      });
      pen.stroke();
      end(series[at].length - 1);
    });
    output.hidden = node.at === undefined;
    if (node.at !== undefined) {
      const place = Math.round(Math.min(1, Math.max(0, node.at)) * (count - 1));
      pen.strokeStyle = colour("--dim"); pen.lineWidth = 1;
      pen.beginPath(); pen.moveTo(x(place), 4); pen.lineTo(x(place), room); pen.stroke();
      text(output, `${clock(past().now - (count - 1 - place) * past().every)}  ${lines.map((each, at) => `${each[1]} ${shown(series[at][place] ?? null)}`).join("  ")}`);
    }
  }
  addEventListener("resize", () => plots());
  return plots;
}
