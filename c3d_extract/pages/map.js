(async () => {
  const data = JSON.parse(await unpack("data"));
  await loadLibrary();
  const n = data.names.length;
  const lowerNames = data.names.map((name) => name.toLowerCase());
  const stage = byId("stage");
  const plot = byId("plot");
  const pointSize = n < 500 ? 10 : n < 5000 ? 7 : n < 30000 ? 5 : 3;

  // ---- Colours and what is visible -------------------------------------------------------------------------
  const PALETTE = ["#4878d0", "#ee854a", "#3fa65c", "#d65f5f", "#956cb4", "#8c613c", "#dc7ec0", "#b5a33a", "#2fa9b8",
    "#797979"];
  const colourOf = (i, count) =>
    count <= PALETTE.length ? PALETTE[i] : `hsl(${Math.round((i * 137.508) % 360)} ${i % 2 ? 55 : 75}% ${[45, 60][(i >> 1) % 2]}%)`;
  const varied = data.colourings.findIndex((c) => c.names.length > 1);
  let colouring = data.colourings[Math.max(varied, 0)];
  let colours = [];
  let isOn = [];
  let visible = new Int32Array(0);
  let filterLater = 0; // while typing in a large table, until no key was pressed for a moment
  let selected = null;

  const classOf = (row) => colouring.names[colouring.of[row]];
  const dot = (row) => {
    const made = element("i", { className: "dot" });
    made.style.background = colours[colouring.of[row]];
    return made;
  };

  function chooseColouring(number) {
    colouring = data.colourings[number];
    colours = colouring.names.map((_, i) => colourOf(i, colouring.names.length));
    isOn = colouring.names.map(() => true);
    const counts = colouring.names.map(() => 0);
    colouring.of.forEach((i) => { counts[i] += 1; });
    byId("classes").replaceChildren(...colouring.names.map((name, i) => {
      const swatch = element("i", { className: "dot" });
      swatch.style.background = colours[i];
      const button = element("button", {}, swatch, element("span", { textContent: name }),
        element("small", { textContent: counts[i].toLocaleString("en") }));
      button.addEventListener("click", () => { isOn[i] = !isOn[i]; filter(); });
      return element("li", {}, button);
    }));
    filter();
  }

  function filter() {
    clearTimeout(filterLater);
    filterLater = 0;
    [...byId("classes").querySelectorAll("button")].forEach((button, i) => button.setAttribute("aria-pressed", isOn[i]));
    const query = byId("query").value.trim().toLowerCase();
    const rows = [];
    for (let row = 0; row < n; row += 1) {
      if (isOn[colouring.of[row]] && (!query || lowerNames[row].includes(query))) rows.push(row);
    }
    visible = Int32Array.from(rows);
    stage.dataset.visible = visible.length;
    showResults(query);
    drawPoints();
  }

  // ---- The plot: plotly.js draws it somewhat larger than the stage; while it moves, its image does -------------
  const MARGIN = 0.25;
  const view = { x: 0, y: 0, scale: 1 };
  let drawn = { ...view };
  let redrawLater = 0;
  let drawnSize = "";
  const stageSize = () => `${stage.clientWidth} ${stage.clientHeight}`;

  function fit() {
    let [left, right, bottom, top] = [Infinity, -Infinity, Infinity, -Infinity];
    for (let row = 0; row < n; row += 1) {
      left = Math.min(left, data.x[row]); right = Math.max(right, data.x[row]);
      bottom = Math.min(bottom, data.y[row]); top = Math.max(top, data.y[row]);
    }
    view.x = (left + right) / 2;
    view.y = (bottom + top) / 2;
    view.scale = 0.9 * Math.min(stage.clientWidth / (right - left || 1), stage.clientHeight / (top - bottom || 1));
  }

  function ranges() {
    const x = ((0.5 + MARGIN) * stage.clientWidth) / view.scale;
    const y = ((0.5 + MARGIN) * stage.clientHeight) / view.scale;
    return { x: [view.x - x, view.x + x], y: [view.y - y, view.y + y] };
  }

  async function drawPoints() {
    const { x, y } = ranges();
    const drawing = { ...view };
    drawnSize = stageSize();
    const rows = Array.from(visible);
    Object.assign(plot.style, { left: `${-MARGIN * 100}%`, top: `${-MARGIN * 100}%` });
    const axis = { visible: false, fixedrange: true };
    const points = {
      type: "scattergl", mode: "markers", x: rows.map((row) => data.x[row]), y: rows.map((row) => data.y[row]),
      marker: { size: pointSize, opacity: n < 5000 ? 0.85 : 0.7, color: rows.map((row) => colours[colouring.of[row]]) },
    };
    await Plotly.react(plot, [points], {
      width: Math.round((1 + 2 * MARGIN) * stage.clientWidth), height: Math.round((1 + 2 * MARGIN) * stage.clientHeight),
      margin: { l: 0, r: 0, t: 0, b: 0 }, showlegend: false, hovermode: false, dragmode: false,
      paper_bgcolor: "transparent", plot_bgcolor: "transparent",
      xaxis: { ...axis, range: x }, yaxis: { ...axis, range: y },
    }, { staticPlot: true, plotGlPixelRatio: Math.max(1, devicePixelRatio) });
    settle(drawing);
    byId("loading").hidden = true;
    document.body.dataset.ready = "yes";
  }

  async function redraw() {
    const { x, y } = ranges();
    const drawing = { ...view };
    await Plotly.relayout(plot, { "xaxis.range": x, "yaxis.range": y });
    settle(drawing);
  }

  function settle(drawing) {
    drawn = drawing;
    chooseMarks();
    moveImage();
  }

  function moveImage() {
    const { scale } = view;
    plot.style.transform =
      `translate(${(drawn.x - view.x) * scale}px, ${(view.y - drawn.y) * scale}px) scale(${scale / drawn.scale})`;
    for (const { row, node } of marks) {
      const { left, top } = placeOf(row);
      node.style.transform = `translate(${left}px, ${top}px) translate(-50%, -50%)`;
    }
  }

  function moved() {
    moveImage();
    clearTimeout(redrawLater);
    redrawLater = setTimeout(redraw, 200);
  }

  const pan = (dx, dy) => { view.x -= dx / view.scale; view.y += dy / view.scale; moved(); };

  function zoom(factor, left = stage.clientWidth / 2, top = stage.clientHeight / 2) {
    const [dx, dy] = [left - stage.clientWidth / 2, top - stage.clientHeight / 2];
    view.x += dx / view.scale - dx / (view.scale * factor);
    view.y -= dy / view.scale - dy / (view.scale * factor);
    view.scale *= factor;
    moved();
  }

  const placeOf = (row) => ({
    left: stage.clientWidth / 2 + (data.x[row] - view.x) * view.scale,
    top: stage.clientHeight / 2 + (view.y - data.y[row]) * view.scale,
  });

  /** Return the visible row nearest to a place of the stage, in pixels, null where none is as near as ``reach``. */
  function rowAt(left, top, reach) {
    const x = view.x + (left - stage.clientWidth / 2) / view.scale;
    const y = view.y - (top - stage.clientHeight / 2) / view.scale;
    let best = (reach / view.scale) ** 2;
    let found = null;
    for (const row of visible) {
      const distance = (data.x[row] - x) ** 2 + (data.y[row] - y) ** 2;
      if (distance <= best) { best = distance; found = row; }
    }
    return found;
  }

  // ---- Marks: thumbnails where there is room for them, and rings around the chosen video and its neighbours -----
  const WIDE = 56;
  const MOST_MARKS = 150;
  let marks = [];

  function chooseMarks() {
    marks = byId("thumbnails").checked ? pictureMarks() : [];
    const rings = selected === null ? [] : [selected, ...data.neighbours[selected]];
    rings.forEach((row, i) => {
      let mark = marks.find((each) => each.row === row);
      if (!mark) {
        mark = { row, node: element("div", { className: "ring" }) };
        mark.node.style.width = mark.node.style.height = `${pointSize + (i ? 6 : 12)}px`;
        marks.push(mark);
      }
      mark.node.classList.add(i ? "near" : "chosen");
    });
    byId("marks").replaceChildren(...marks.map(({ node }) => node));
  }

  function pictureMarks() {
    const found = [];
    const high = (WIDE * height) / width;
    const order = selected === null ? visible : [selected, ...data.neighbours[selected], ...visible];
    for (const row of order) {
      const { left, top } = placeOf(row);
      const isInside = left > 0 && top > 0 && left < stage.clientWidth && top < stage.clientHeight;
      if (places[row] === null || !isInside) continue;
      if (found.some((f) => Math.abs(f.left - left) < WIDE + 6 && Math.abs(f.top - top) < high + 6)) continue;
      const node = element("div", { className: "mark" }, thumbnail(row, WIDE));
      node.style.borderColor = colours[colouring.of[row]];
      found.push({ row, node, left, top });
      if (found.length === MOST_MARKS) break;
    }
    return found;
  }

  // ---- Pictures ---------------------------------------------------------------------------------------------
  const { width, height, columns, perSheet, frames, places } = data.thumbnails;
  const sheets = byId("pictures").textContent.trim().split("\n").filter(Boolean).map((text) => {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    return URL.createObjectURL(new Blob([bytes], { type: "image/jpeg" }));
  });

  function picture(row, frame, wide) {
    if (places[row] === null) return null;
    const number = places[row] + frame;
    const place = number % perSheet;
    const made = element("div", { className: "picture" });
    Object.assign(made.style, {
      width: `${width}px`, height: `${height}px`, zoom: wide / width,
      backgroundImage: `url(${sheets[Math.floor(number / perSheet)]})`,
      backgroundPosition: `${-(place % columns) * width}px ${-Math.floor(place / columns) * height}px`,
    });
    return made;
  }

  const thumbnail = (row, wide) => picture(row, Math.floor(frames / 2), wide);

  // ---- A video: on hover, and chosen --------------------------------------------------------------------------
  const part = (row) => data.kind === "clips" && data.facts.start_seconds[row] !== null
    ? `, from ${shown("seconds", data.facts.start_seconds[row])}` : "";

  function hover(row, left, top) {
    const card = byId("hover");
    card.hidden = row === null;
    if (row === null) return;
    card.replaceChildren(...[thumbnail(row, 160), element("div", { textContent: data.names[row] + part(row) }),
      element("small", {}, dot(row), ` ${classOf(row)}`)].filter(Boolean));
    const box = card.getBoundingClientRect();
    card.style.left = `${Math.max(4, Math.min(left + 14, innerWidth - box.width - 4))}px`;
    card.style.top = `${Math.max(4, Math.min(top + 14, innerHeight - box.height - 4))}px`;
  }

  function facts(row) {
    const list = element("dl");
    const add = (name, value) => list.append(element("dt", { textContent: name }), element("dd", { textContent: value }));
    data.colourings.forEach((c) => add(c.name, c.names[c.of[row]]));
    for (const [column, values] of Object.entries(data.facts)) {
      if (column === "width" || (column === "error" && values[row] === null)) continue;
      if (column === "height") add("frame", `${values[row]} × ${data.facts.width[row]} (height × width)`);
      else add(WORDS[column] ?? column, shown(column, values[row]));
    }
    return list;
  }

  function neighbour(row, similarity) {
    const button = element("button", {}, thumbnail(row, 64), element("span", { textContent: data.names[row] + part(row) }),
      dot(row), element("small", { textContent: similarity.toFixed(3) }));
    button.addEventListener("click", () => select(row, true));
    return element("li", {}, button);
  }

  function select(row, isShown = false) {
    selected = row;
    const panel = byId("details");
    panel.hidden = row === null;
    if (row !== null) {
      const close = element("button", { className: "close", textContent: "✕", title: "Close" });
      close.addEventListener("click", () => select(null));
      const strip = element("div", { className: "strip" });
      for (let i = 0; i < frames; i += 1) strip.append(...[picture(row, i, frames > 1 ? 100 : 200)].filter(Boolean));
      panel.replaceChildren(close, element("h2", { textContent: data.names[row] + part(row) }), strip, facts(row),
        element("h2", { textContent: data.neighbours[row].length ? "Nearest by cosine" : "" }),
        element("ol", {}, ...data.neighbours[row].map((other, i) => neighbour(other, data.similarities[row][i]))));
      panel.scrollTop = 0;
      if (isShown) {
        view.x = data.x[row];
        view.y = data.y[row];
        moved();
      }
    }
    hover(null);
    chooseMarks();
    moveImage();
  }

  // ---- Search -----------------------------------------------------------------------------------------------
  function showResults(query) {
    const list = byId("results");
    list.hidden = !query;
    const rows = query ? Array.from(visible.subarray(0, 30)) : [];
    const more = visible.length - rows.length;
    list.replaceChildren(
      ...rows.map((row) => {
        const button = element("button", { textContent: data.names[row] + part(row) });
        button.addEventListener("click", () => { list.hidden = true; select(row, true); });
        return element("li", {}, button);
      }),
      element("li", { textContent: rows.length ? (more > 0 ? `and ${more.toLocaleString("en")} more` : "") : "no name has this" }),
    );
  }

  byId("query").addEventListener("input", () => {
    clearTimeout(filterLater);
    if (n > 5000) filterLater = setTimeout(filter, 200); else filter();
  });
  byId("query").addEventListener("keydown", (event) => {
    if (event.key === "Enter") {
      if (filterLater) filter();
      byId("results").querySelector("button")?.click();
    }
    if (event.key === "Escape") { byId("query").value = ""; filter(); stage.focus(); }
  });
  document.addEventListener("pointerdown", (event) => {
    if (!byId("search").contains(event.target)) byId("results").hidden = true;
  });

  // ---- Mouse, touch, keys -----------------------------------------------------------------------------------
  const pointers = new Map();
  let travelled = 0;
  const onStage = (event) => {
    const box = stage.getBoundingClientRect();
    return { left: event.clientX - box.left, top: event.clientY - box.top };
  };

  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    stage.setPointerCapture(event.pointerId);
    stage.focus({ preventScroll: true });
    if (!pointers.size) travelled = 0;
    pointers.set(event.pointerId, onStage(event));
    hover(null);
  });

  stage.addEventListener("pointermove", (event) => {
    const now = onStage(event);
    const before = pointers.get(event.pointerId);
    if (!before) {
      if (event.pointerType === "mouse") hover(rowAt(now.left, now.top, 10), event.clientX, event.clientY);
      return;
    }
    travelled += Math.hypot(now.left - before.left, now.top - before.top);
    if (travelled < 4) return;
    stage.classList.add("moving");
    if (pointers.size === 2) {
      const [other] = [...pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
      const span = (place) => Math.hypot(place.left - other.left, place.top - other.top) || 1;
      zoom(span(now) / span(before), (now.left + other.left) / 2, (now.top + other.top) / 2);
    } else {
      pan(now.left - before.left, now.top - before.top);
    }
    pointers.set(event.pointerId, now);
  });

  const lift = (event) => {
    if (!pointers.delete(event.pointerId)) return;
    stage.classList.remove("moving");
    if (travelled >= 4 || pointers.size || event.type !== "pointerup") return;
    const { left, top } = onStage(event);
    select(rowAt(left, top, event.pointerType === "mouse" ? 10 : 24));
  };
  stage.addEventListener("pointerup", lift);
  stage.addEventListener("pointercancel", lift);
  stage.addEventListener("pointerleave", () => hover(null));
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    const { left, top } = onStage(event);
    zoom(Math.exp(-Math.max(-100, Math.min(100, event.deltaY)) / 300), left, top);
  }, { passive: false });

  const step = (by) => {
    if (!visible.length) return;
    const at = selected === null ? (by > 0 ? -1 : 0) : visible.indexOf(selected);
    select(visible[(at + by + visible.length) % visible.length], true);
  };
  const KEYS = {
    ArrowLeft: () => pan(60, 0), ArrowRight: () => pan(-60, 0), ArrowUp: () => pan(0, 60), ArrowDown: () => pan(0, -60),
    "+": () => zoom(1.3), "=": () => zoom(1.3), "-": () => zoom(1 / 1.3), 0: () => { fit(); moved(); },
    n: () => step(1), p: () => step(-1), Escape: () => select(null),
    Enter: () => select(rowAt(stage.clientWidth / 2, stage.clientHeight / 2, Infinity)),
  };
  stage.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
    event.preventDefault();
    KEYS[event.key]();
  });
  document.addEventListener("keydown", (event) => {
    if (event.target instanceof HTMLInputElement || event.target instanceof HTMLSelectElement) return;
    if (event.key === "/") { event.preventDefault(); byId("query").focus(); }
    if (event.key === "Escape" && event.target !== stage) select(null);
  });

  // ---- Start ------------------------------------------------------------------------------------------------
  byId("title").textContent = data.file;
  const METHODS = { tsne: "t-SNE", umap: "UMAP", pca: "PCA" };
  const what = `${n.toLocaleString("en")} ${data.kind === "clips" ? "clips" : "videos"}, ${METHODS[data.method]} of ${data.layer}`;
  byId("about").textContent = [what + (data.weights ? ` (${data.weights})` : ""), ...data.notes].join(" · ");
  byId("colouring").replaceChildren(...data.colourings.map((c, i) =>
    element("option", { value: String(i), textContent: c.name, selected: c === colouring })));
  byId("colouring").addEventListener("change", (event) => chooseColouring(Number(event.target.value)));
  const hasPictures = places.some((place) => place !== null);
  byId("thumbnails").checked = hasPictures && n <= 2000;
  byId("thumbnails").parentElement.hidden = !hasPictures;
  byId("thumbnails").addEventListener("change", () => { chooseMarks(); moveImage(); });
  byId("all").addEventListener("click", () => { isOn.fill(true); filter(); });
  byId("none").addEventListener("click", () => { isOn.fill(false); filter(); });
  if (matchMedia("(max-width: 700px)").matches) byId("legend").open = false;
  fit();
  chooseColouring(data.colourings.indexOf(colouring));
  watchTheme();
  new ResizeObserver(() => { if (stage.clientWidth && stageSize() !== drawnSize) drawPoints(); }).observe(stage);
})();
