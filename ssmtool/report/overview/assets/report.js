"use strict";
// The page works without this file: it adds sorting, the rank slider, one layer at a time, and the theme button.
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const $ = (selector, from = document) => from.querySelector(selector);
  const all = (selector, from = document) => Array.from(from.querySelectorAll(selector));

  // Theme: the system's until the button is pressed; kept where the browser allows it.
  const button = $(".theme");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const current = () => root.dataset.theme || (dark.matches ? "dark" : "light");
  const label = () => {
    const other = current() === "dark" ? "light" : "dark";
    button.textContent = other === "dark" ? "Dark" : "Light";
    button.setAttribute("aria-label", `Switch to ${other} colours`);
  };
  try {
    const kept = window.localStorage.getItem("ssmtool-theme");
    if (kept === "dark" || kept === "light") root.dataset.theme = kept;
  } catch { /* a page from a file may have no storage */ }
  button.addEventListener("click", () => {
    root.dataset.theme = current() === "dark" ? "light" : "dark";
    try { window.localStorage.setItem("ssmtool-theme", root.dataset.theme); } catch { /* as above */ }
    label();
  });
  dark.addEventListener("change", label);
  label();

  // Sorting. A cell's data-k is its number; what has none goes last in either direction.
  const key = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.k !== undefined) return Number(cell.dataset.k);
    const text = cell.textContent.trim();
    return text === "–" || text === "" ? null : text;
  };
  const compare = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), "en", { numeric: true });
  };
  for (const table of all("table.sortable")) {
    const heads = all("thead th", table);
    heads.forEach((head, column) => {
      const press = $("button", head);
      if (!press) return;
      press.addEventListener("click", () => {
        const numeric = !head.classList.contains("t");
        const before = head.getAttribute("aria-sort");
        const direction = before === "none" ? (numeric ? "descending" : "ascending")
          : before === "ascending" ? "descending" : "ascending";
        heads.forEach((other) => { if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none"); });
        head.setAttribute("aria-sort", direction);
        const sign = direction === "ascending" ? 1 : -1;
        const body = table.tBodies[0];
        const rows = Array.from(body.rows).map((row, place) => ({ row, place, key: key(row, column) }));
        rows.sort((a, b) => {
          if (a.key === null || b.key === null) return (a.key === null) - (b.key === null) || a.place - b.place;
          return sign * compare(a.key, b.key) || a.place - b.place;
        });
        body.append(...rows.map((entry) => entry.row));
      });
    });
  }

  // One layer at a time, where there are many.
  const layers = all(".layer");
  const picker = $("#layer-picker");
  const show = () => layers.forEach((layer, i) => {
    layer.hidden = picker.value !== "all" && Number(picker.value) !== i;
  });
  if (picker) {
    const move = (step) => {
      const now = picker.value === "all" ? (step > 0 ? -1 : layers.length) : Number(picker.value);
      picker.value = String((now + step + layers.length) % layers.length);
      show();
    };
    picker.addEventListener("change", show);
    $("#layer-before").addEventListener("click", () => move(-1));
    $("#layer-after").addEventListener("click", () => move(1));
    show();
  }

  // The slider.
  const slider = $("#rank");
  if (!slider) return;
  const data = JSON.parse($("#report-data").textContent);
  const sci = (x) => {
    if (x === null) return "∞";
    if (x === 0) return "0";
    return x.toExponential(1).replace(/e([+-])(\d)$/, "e$10$2");
  };
  // In sentences: 0.0075, 3.2e−05, with a minus that no line is broken at.
  const said = (x) => {
    if (x === null) return "∞";
    if (x === 0) return "0";
    return x < 1e-4 || x >= 1000 ? sci(x).replace("-", "−") : String(Number(x.toPrecision(2)));
  };
  const size = (bytes) => {
    for (const [factor, unit] of [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"]]) {
      if (bytes >= 0.99995 * factor) return `${(bytes / factor).toFixed(1)} ${unit}`;
    }
    return `${bytes} B`;
  };
  const percent = (part, whole) => `${(100 * part / whole).toFixed(1)} %`;
  const known = (layer) => layer.bound.some((bound) => bound !== null);
  const measured = (layer, rank) => {
    const points = [...layer.measured];
    if (layer.reduced && layer.reduced[1] !== null) points.push(layer.reduced);
    const below = points.filter((point) => point[0] <= rank).sort((a, b) => b[0] - a[0]);
    return below.length ? below[0] : null;
  };
  const put = (cell, text, number) => {
    cell.textContent = text;
    if (number === null) delete cell.dataset.k; else cell.dataset.k = String(number);
  };
  const marks = layers.map((layer) => all("svg[data-most]", layer));
  const rows = all("#live-table tbody tr").sort((a, b) => a.dataset.layer - b.dataset.layer);

  const update = () => {
    const i = Number(slider.value);
    const rank = data.ranks[i];
    let worst = null;
    let bytes = data.other;
    let states = 0;
    let all_states = 0;
    let largest = null;
    data.layers.forEach((layer, n) => {
      const kept = Math.min(rank, layer.order);
      const bound = known(layer) ? layer.bound[i] : undefined;
      const point = measured(layer, kept);
      states += kept;
      all_states += layer.order;
      bytes = layer.bytes.length && bytes !== null ? bytes + layer.bytes[i] : null;
      if (bound !== undefined) {
        const weight = bound === null ? Infinity : bound;
        if (worst === null || weight > worst.weight) worst = { weight, bound, name: layer.name };
      }
      if (point && (largest === null || point[1] > largest[1])) largest = point;
      const boundText = bound === undefined ? "–" : sci(bound);
      const bytesText = layer.bytes.length ? size(layer.bytes[i]) : "–";
      const pointText = point ? `${sci(point[1])} at ${point[0]}` : "–";
      const cells = rows[n].cells;
      put(cells[1], `${kept} of ${layer.order}`, kept);
      put(cells[2], boundText, bound === undefined ? null : bound === null ? Infinity : bound);
      put(cells[3], bytesText, layer.bytes.length ? layer.bytes[i] : null);
      if (cells[4]) put(cells[4], pointText, point ? point[1] : null);
      const line = $(".live", layers[n]);
      const named = layer.selective ? "predicted error" : "bound";
      line.textContent = `${kept} of ${layer.order} states kept: ${bound === undefined ? "" : `${named} ${said(bound)}, `}`
        + bytesText + (point ? `; measured ${said(point[1])} at ${point[0]}` : "");
      for (const chart of marks[n]) {
        const mark = $(".rank-line", chart);
        const x = Number(mark.dataset.width) * Math.min(1, kept / Number(chart.dataset.most));
        mark.setAttribute("transform", `translate(${x.toFixed(1)} 0)`);
      }
    });
    const parts = [`${rank} state${rank === 1 ? "" : "s"} kept per ${data.per}, ${percent(states, all_states)} of all`];
    if (bytes !== null) parts.push(`checkpoint ${size(bytes)}, ${percent(bytes, data.total)} of its size`);
    if (worst !== null) parts.push(`largest ${data.named} ${said(worst.bound)}${worst.weight ? ` in ${worst.name}` : ""}`);
    if (largest !== null) parts.push(`largest measured error ${said(largest[1])}, at ${largest[0]}`);
    $("#rank-now").textContent = `${parts.join("; ")}.`;
    slider.setAttribute("aria-valuetext", `${rank} state${rank === 1 ? "" : "s"}`);
  };
  slider.addEventListener("input", update);
  update();
})();
