"use strict";
/* Draws the charts and lists the completions. Texts of documents and models are only ever set as text, never as HTML. */
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const PAGE = 10;

  // --- charts

  const base = {
    autosize: true, margin: { l: 48, r: 8, t: 8, b: 40 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { size: 12, family: getComputedStyle(document.body).fontFamily }, hovermode: "x unified", dragmode: "zoom", yaxis: { exponentformat: "power" },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
  };
  const merged = (one, other) => {
    const result = { ...one };
    for (const [key, value] of Object.entries(other)) {
      const both = value && typeof value === "object" && !Array.isArray(value) && result[key];
      result[key] = both ? merged(result[key], value) : value;
    }
    return result;
  };
  const draw = (place) => {
    if (place.dataset.drawn || !place.offsetWidth) return;
    place.dataset.drawn = "1";
    const figure = data.charts[Number(place.dataset.chart)];
    const layout = merged(base, figure.layout);
    if (matchMedia("(pointer: coarse)").matches) layout.dragmode = false; // a finger on a chart scrolls the page
    Plotly.newPlot(place, figure.data, layout, { displayModeBar: false, responsive: true });
  };
  const drawAll = () => document.querySelectorAll(".plot").forEach(draw);
  document.querySelectorAll("details").forEach((one) => one.addEventListener("toggle", drawAll));

  document.querySelectorAll(".swatch").forEach((one) => { one.style.background = data.colors[Number(one.dataset.color) % data.colors.length]; });

  // --- elements

  const make = (name, classes, ...children) => {
    const element = document.createElement(name);
    if (classes) element.className = classes;
    element.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
    return element;
  };
  /* The text with what was searched for marked. */
  const marked = (text, words) => {
    const found = make("span", "");
    const lower = text.toLowerCase();
    let at = 0;
    for (let marks = 0; words.length && lower.length === text.length && marks < 200; marks++) {
      let next = -1, size = 0;
      for (const word of words) {
        const place = lower.indexOf(word, at);
        if (place >= 0 && (next < 0 || place < next)) { next = place; size = word.length; }
      }
      if (next < 0) break;
      found.append(text.slice(at, next), make("mark", "", text.slice(next, next + size)));
      at = next + size;
    }
    found.append(text.slice(at));
    return found;
  };
  const block = (text, words, classes = "") => make("p", `text ${classes}`, marked(text, words));
  const folded = (title, open, ...children) => {
    const element = make("details", "", make("summary", "", title), ...children);
    element.open = open;
    return element;
  };
  const runName = (number) => (data.runs.length > 1 ? `${data.runs[number]} · ` : "");
  const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value)}`;
  const holds = (text, words) => words.some((word) => text.toLowerCase().includes(word));

  // --- completions

  const SETS = { heldout: "held out", worst: "among the worst", best: "among the best" };
  const said = (one, title, words) => {
    const parts = Object.entries(one.components).map(([name, value]) => `${name} ${signed(value)}`).join(", ");
    const violated = one.violations.length ? make("span", "bad", ` · ${one.violations.join(", ")}`) : "";
    return make("div", "side",
      make("h4", "", title),
      make("p", "meta", `reward ${one.reward}`, parts ? ` = ${parts}` : "", " · answer ",
        make("span", one.right ? "good" : "bad", one.answer ? `${one.answer} (${one.right ? "right" : "wrong"})` : "none"),
        one.judged ? ` · ${one.judged}` : "", ` · ${one.think} thinking of ${one.tokens} tokens`, violated),
      block(one.text, words, `said ${one.right ? "right" : "wrong"}`));
  };
  const sample = (item, words) => {
    const sides = ["before", "after"].filter((side) => item[side]);
    const pair = sides.length === 2;
    const long = item.documents.length > 1;
    const documents = item.documents.map((one) => make("div", "", make("p", "meta", one.name), block(one.text, words)));
    const found = item.documents.some((one) => holds(one.text, words));
    const first = item[sides[0]];
    const step = item.set === "heldout" ? "" : ` · step ${first.step}`;
    return make("article", "item",
      make("p", "meta", `${runName(item.run)}${SETS[item.set]}${step} · task ${item.task} · label ${item.label}`),
      make("h3", "", marked(item.query, words)),
      folded(long ? `${documents.length} documents` : "Document", found, ...documents),
      make("div", "sides", ...sides.map((side) => said(item[side], item.set === "heldout" ? `${pair ? `${side}, ` : ""}step ${item[side].step}` : "completion", words))));
  };
  const textOf = (item) => [item.query, `task ${item.task}`, ...item.documents.map((one) => one.text),
    ...["before", "after"].map((side) => (item[side] ? item[side].text : ""))].join("\n").toLowerCase();
  const newest = (item) => item.after || item.before;
  const violates = (item, wanted) => ["before", "after"].some((side) => item[side] &&
    (wanted === "-" ? item[side].violations.length === 0 : item[side].violations.includes(wanted)));
  const ORDERS = {
    low: (one, other) => newest(one).reward - newest(other).reward,
    new: (one, other) => newest(other).step - newest(one).step,
  };

  // --- queries

  const ranking = (documents, title, after, words) => {
    const list = make("ol", "ranking");
    documents.forEach((one, at) => {
      const moved = one.was === null || one.was === undefined ? "new" : one.was === at + 1 ? "=" : one.was > at + 1 ? `↑ from ${one.was}` : `↓ from ${one.was}`;
      const grade = one.grade === null || one.grade === undefined ? "" : make("span", "tag", `grade ${one.grade}`);
      list.append(make("li", one.grade > 0 ? "relevant" : "", make("strong", one.grade > 0 ? "good" : "", marked(one.id, words)), grade,
        after ? make("span", "tag", moved) : "", one.text ? block(one.text, words) : ""));
    });
    return make("div", "side", make("h4", "", title), list);
  };
  const query = (item, words) => {
    const sign = item.change > 0 ? "good" : item.change < 0 ? "bad" : "";
    const thoughts = item.replies.filter((one) => one.text || one.violations.length).map((one) => make("div", "",
      make("p", "meta", `asked about ${one.shown.slice(0, 30).join(", ")}`, one.violations.length ? make("span", "bad", ` · ${one.violations.join(", ")}`) : ""),
      block(one.text || "(no thought)", words, "said")));
    const many = `${item.asked > item.replies.length ? `${item.replies.length} of ` : ""}${item.asked} answer${item.asked === 1 ? "" : "s"}`;
    return make("article", "item",
      make("p", "meta", `${runName(item.run)}query ${item.query_id} · `, make("span", sign, item.said), ` · ${item.candidates} candidates`,
        item.refused ? make("span", "bad", ` · ${item.refused}`) : ""),
      make("h3", "", marked(item.query || item.query_id, words)),
      make("div", "sides", item.first.length ? ranking(item.first, "first stage", false, words) : "", ranking(item.order, "reranked", true, words)),
      thoughts.length ? folded(`Thoughts (${many})`, item.replies.some((one) => holds(one.text, words)), ...thoughts) : "");
  };
  const textOfQuery = (item) => [item.query_id, item.query, ...[...item.first, ...item.order].map((one) => `${one.id} ${one.text}`),
    ...item.replies.map((one) => one.text)].join("\n").toLowerCase();

  // --- lists

  /* A list with its filters: `matches(item, form)` decides beside the search; `render(item, words)` makes an element. */
  const list = (name, items, text, render, matches, orders) => {
    const form = document.getElementById(`${name}-filters`);
    if (!form) return;
    const place = document.getElementById(`${name}-list`), more = document.getElementById(`${name}-more`);
    const texts = items.map(text);
    let shown = PAGE;
    const show = () => {
      const fields = Object.fromEntries(new FormData(form));
      const words = fields.text.toLowerCase().split(/\s+/).filter(Boolean);
      let found = items.map((item, at) => [item, texts[at]])
        .filter(([item, all]) => words.every((word) => all.includes(word)) && (!fields.run || item.run === Number(fields.run)) && matches(item, fields))
        .map(([item]) => item);
      if (orders[fields.order]) found = [...found].sort(orders[fields.order]);
      place.replaceChildren(...found.slice(0, shown).map((item) => render(item, words)));
      form.querySelector(".count").textContent = found.length === items.length ? `${items.length}, the first ${Math.min(shown, items.length)} shown` : `${found.length} of ${items.length} match`;
      more.hidden = found.length <= shown;
    };
    let timer = 0;
    form.addEventListener("input", () => { shown = PAGE; clearTimeout(timer); timer = setTimeout(show, 100); });
    form.addEventListener("submit", (event) => { event.preventDefault(); show(); });
    more.addEventListener("click", () => { shown += 2 * PAGE; show(); });
    show();
  };
  list("sample", data.samples, textOf, sample,
    (item, fields) => (!fields.set || item.set === fields.set) && (!fields.violation || violates(item, fields.violation)), ORDERS);
  list("query", data.queries, textOfQuery, query,
    (item, fields) => !fields.set || (fields.set === "gain" ? item.change > 0 : item.change < 0), {});

  drawAll();
  document.documentElement.dataset.ready = "1";
})();
