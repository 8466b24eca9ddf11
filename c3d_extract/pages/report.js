(async () => {
  const data = JSON.parse(await unpack("data"));
  const AT_ONCE = 50;

  // ---- Counts, settings ---------------------------------------------------------------------------------------
  byId("title").textContent = data.title;
  byId("counts").replaceChildren(...data.counts.map(([value, name]) =>
    element("li", {}, element("b", { textContent: value }), name)));
  byId("notes").textContent = data.notes.join(" · ");
  byId("settings").replaceChildren(...Object.entries(data.settings).map(([title, values]) => {
    const list = element("dl");
    for (const [name, value] of Object.entries(values)) {
      list.append(element("dt", { textContent: name }), element("dd", { textContent: value }));
    }
    return element("div", {}, element("h2", { textContent: title }), list);
  }));

  // ---- Table ----------------------------------------------------------------------------------------------------
  const columns = Object.keys(data.videos).filter((c) => data.videos[c].some((value) => value !== null));
  const n = data.videos.video.length;
  const isNumber = Object.fromEntries(columns.map((c) => [c, data.videos[c].some((v) => typeof v === "number")]));
  let sorted = { column: "status", isUp: true };
  let nShown = AT_ONCE;
  const RANKS = { failed: 0, partial: 1, ok: 2, skipped: 3 };
  const key = (column, row) => (column === "status" ? RANKS[data.videos.status[row]] : data.videos[column][row]);

  function compare(a, b) {
    const [x, y] = [key(sorted.column, a), key(sorted.column, b)];
    if (x === y) return a - b;
    if (x === null || y === null) return x === null ? 1 : -1;  // unknown values last, either way
    return (x < y ? -1 : 1) * (sorted.isUp ? 1 : -1);
  }

  function showTable() {
    const query = byId("query").value.trim().toLowerCase();
    const status = byId("status").value;
    const rows = [...Array(n).keys()].filter((row) => (!status || data.videos.status[row] === status)
      && (!query || ["video", "error"].some((c) => String(data.videos[c][row] ?? "").toLowerCase().includes(query))));
    rows.sort(compare);
    document.querySelectorAll("#videos th").forEach((cell, i) => cell.setAttribute("aria-sort",
      columns[i] !== sorted.column ? "none" : sorted.isUp ? "ascending" : "descending"));
    document.querySelector("#videos tbody").replaceChildren(...rows.slice(0, nShown).map((row) =>
      element("tr", { className: data.videos.status[row] }, ...columns.map((column) => {
        const value = data.videos[column][row];
        return element("td", { className: isNumber[column] ? "number" : "text", textContent: value === null ? "" : shown(column, value) });
      }))));
    byId("shown").textContent = `${rows.length.toLocaleString("en")} of ${n.toLocaleString("en")}`;
    byId("more").hidden = rows.length <= nShown;
  }

  document.querySelector("#videos thead").replaceChildren(element("tr", {}, ...columns.map((column) => {
    const button = element("button", { textContent: WORDS[column] ?? column });
    button.addEventListener("click", () => {
      sorted = { column, isUp: sorted.column === column ? !sorted.isUp : !isNumber[column] };
      showTable();
    });
    return element("th", { className: isNumber[column] ? "number" : "text" }, button);
  })));
  byId("status").replaceChildren(element("option", { value: "", textContent: "all" }),
    ...[...new Set(data.videos.status)].map((status) => element("option", { value: status, textContent: status })));
  const restart = () => { nShown = AT_ONCE; showTable(); };
  byId("query").addEventListener("input", restart);
  byId("status").addEventListener("change", restart);
  byId("more").addEventListener("click", () => { nShown += 10 * AT_ONCE; showTable(); });
  showTable();

  // ---- Plots ------------------------------------------------------------------------------------------------------
  await loadLibrary();
  const styleColour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const OPTIONS = { displayModeBar: false, responsive: true };
  const layout = (more) => ({
    paper_bgcolor: "transparent", plot_bgcolor: "transparent", font: { color: styleColour("--text"), size: 12 }, ...more,
  });
  const axis = (title, more = {}) => ({ title: { text: title }, gridcolor: styleColour("--line"), zeroline: false, automargin: true, ...more });

  function drawPlots() {
    byId("plots").replaceChildren(...data.plots.map(({ title, unit, values }) => {
      const place = element("div", { className: "plot" });
      requestAnimationFrame(() => Plotly.newPlot(place, [{ type: "histogram", x: values, marker: { color: styleColour("--accent") } }],
        layout({ title: { text: title, font: { size: 14 } }, height: 260, margin: { l: 50, r: 10, t: 36, b: 44 }, bargap: 0.05,
          xaxis: axis(unit), yaxis: axis("videos", { rangemode: "tozero" }) }), OPTIONS));
      return place;
    }));
    if (data.classes) drawConfusion(data.classes);
    document.body.dataset.ready = "yes";
  }

  function drawConfusion({ names, counts, text }) {
    byId("classes").hidden = false;
    byId("accuracy").textContent = text;
    const shares = counts.map((row) => { const sum = row.reduce((a, b) => a + b, 0); return row.map((c) => (sum ? c / sum : 0)); });
    // Names are data here, while plotly.js would take some HTML in them: numbers stand for them where it draws.
    const plain = names.map((name) => name.replaceAll("<", "‹").replaceAll("&", "＆").slice(0, 40));
    const places = names.map((_, i) => i);
    const side = Math.max(320, Math.min(1000, 140 + 26 * names.length));
    const ticks = { tickmode: "array", tickvals: places, ticktext: plain, showgrid: false, tickfont: { size: names.length > 40 ? 9 : 11 } };
    byId("confusion").style.height = `${side}px`;
    Plotly.newPlot("confusion", [{
      type: "heatmap", z: shares, zmin: 0, zmax: 1, colorscale: [[0, styleColour("--surface")], [1, styleColour("--accent")]],
      customdata: counts, hovertemplate: "true %{y}, predicted %{x}: %{customdata}<extra></extra>",
      text: names.length <= 25 ? counts.map((row) => row.map((c) => (c ? String(c) : ""))) : undefined,
      texttemplate: names.length <= 25 ? "%{text}" : undefined, colorbar: { title: { text: "share of the true class" }, tickformat: ".0%" },
    }], layout({ height: side, margin: { l: 60, r: 10, t: 10, b: 60 },
      xaxis: axis("predicted", { ...ticks, tickangle: -60 }), yaxis: axis("true", { ...ticks, autorange: "reversed" }) }), OPTIONS);
  }

  watchTheme();
  byId("theme").addEventListener("click", drawPlots);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawPlots);
  drawPlots();
})();
