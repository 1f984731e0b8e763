"use strict";
(() => {
  const $ = (id) => document.getElementById(id);

  // Tables: a button in each column header sorts by that column. Rows without a value stay last.
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      if (table.tBodies[0].querySelector(`tr > :nth-child(${column + 1}).number`)) head.classList.add("number");
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        const sign = up ? 1 : -1;
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const body = table.tBodies[0];
        const rows = [...body.rows].sort((a, b) => {
          const [x, y] = [a.cells[column], b.cells[column]];
          if (!head.classList.contains("number")) return sign * x.textContent.localeCompare(y.textContent);
          const [known, other] = [x.dataset.key !== undefined, y.dataset.key !== undefined];
          return known && other ? sign * (x.dataset.key - y.dataset.key) : other - known;
        });
        body.replaceChildren(...rows);
      });
    });
  }

  const replays = JSON.parse($("replays").textContent);
  if (!replays.length) return;
  $("replay").hidden = false;

  const PAUSE = 900; // milliseconds between two iterations
  const [WIDTH, HEIGHT, GAP_X, GAP_Y] = [120, 56, 44, 12]; // of a node, and between nodes
  // Start with a method that proposes trees.
  const first = replays.find((replay) => replay.label.startsWith("mmtad")) ?? replays[0];
  const state = { replay: first, step: 0, timer: 0 };
  const SIGNS = { " ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍", "": "∅" };

  const visible = (text) => (text === "" ? SIGNS[""] : text.replace(/[ \n\t\r]/g, (c) => SIGNS[c]));
  const short = (text) => {
    const chars = [...visible(text)];
    return chars.length > 12 ? chars.slice(0, 11).join("") + "…" : chars.join("");
  };
  const number = (x) => (x === null || x === undefined ? "−∞" : x.toFixed(2).replace("-", "−"));
  const quoted = (text) => `“${visible(text)}”`;

  function element(name, attributes = {}, text) {
    const svg = ["svg", "g", "rect", "path", "text"].includes(name);
    const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function options(select, names, chosen) {
    select.replaceChildren(...names.map((name, index) => element("option", { value: index }, name)));
    select.selectedIndex = Math.max(0, chosen);
  }

  const items = [...new Set(replays.map((replay) => replay.item))];
  const several = new Set(replays.map((replay) => replay.seed)).size > 1;
  const named = (replay) => replay.label + (several ? `, seed ${replay.seed}` : "");
  let offered = [];

  function chooseItem() {
    const before = named(state.replay);
    offered = replays.filter((replay) => replay.item === items[$("item").selectedIndex]);
    options($("method"), offered.map(named), offered.findIndex((replay) => named(replay) === before));
    chooseMethod();
  }

  function chooseMethod() {
    pause();
    state.replay = offered[$("method").selectedIndex];
    const verdict = state.replay.verdict;
    const descriptions = { right: "✓ right", wrong: "✗ wrong", failed: "✗", not_judged: "not judged:", unjudged: "" };
    const parts = [descriptions[verdict.verdict], verdict.name, verdict.message && `– ${verdict.message}`];
    $("verdict").textContent = parts.filter(Boolean).join(" ");
    $("prompt").textContent = state.replay.prompt;
    const count = state.replay.iterations.length;
    $("slider").max = Math.max(1, count);
    $("slider").disabled = count < 2;
    go(0);
  }

  function go(step) {
    const count = state.replay.iterations.length;
    state.step = Math.min(Math.max(step, 0), Math.max(0, count - 1));
    $("slider").value = state.step + 1;
    $("slider").setAttribute("aria-valuetext", `Iteration ${state.step + 1} of ${count}`);
    $("first").disabled = $("back").disabled = state.step === 0;
    $("next").disabled = $("last").disabled = state.step >= count - 1;
    if (state.step >= count - 1) pause();
    draw();
  }

  function pause() {
    clearInterval(state.timer);
    state.timer = 0;
    showPlaying();
  }

  function play() {
    if (state.timer) return pause();
    if (state.step >= state.replay.iterations.length - 1) go(0);
    if (state.replay.iterations.length > 1) state.timer = setInterval(() => go(state.step + 1), PAUSE);
    showPlaying();
  }

  function showPlaying() {
    $("play").textContent = state.timer ? "Pause" : "Play";
    // Screen readers announce manual steps, but not every step while playing.
    $("status").setAttribute("aria-live", state.timer ? "off" : "polite");
  }

  function draw() {
    const { iterations } = state.replay;
    const spans = [];
    iterations.slice(0, state.step + 1).forEach((iteration, index) => {
      const now = index === state.step ? " now" : "";
      const add = (text, kind) =>
        text && spans.push(element("span", { class: `token ${kind}${now}` }, text.replace(/\n/g, "⏎\n")));
      iteration.accepted.forEach((node) => add(iteration.nodes[node].text, "draft"));
      if (iteration.bonus !== null) add(iteration.bonus, "bonus");
    });
    $("text").replaceChildren(...spans);
    $("text").scrollTop = $("text").scrollHeight;
    const iteration = iterations[state.step];
    $("status").textContent = iteration
      ? `Iteration ${state.step + 1} of ${iterations.length}: ${iteration.nodes.length} proposed, ${iteration.accepted.length} accepted`
      : "Nothing was generated.";
    const inside = $("tree").contains(document.activeElement);
    $("tree").replaceChildren(...(iteration ? [tree(iteration)] : []));
    // Keep the focus in the tree, so that the keys keep working.
    if (inside) $("tree").querySelector("g")?.focus();
  }

  // The root of the tree: the last token of the previous iteration.
  function root() {
    const before = state.replay.iterations[state.step - 1];
    if (!before) return { name: "prompt", about: "The end of the prompt." };
    const text = before.bonus ?? before.nodes[before.accepted.at(-1)]?.text ?? "";
    return { name: short(text), about: `${quoted(text)}, the last committed token.` };
  }

  function tree(iteration) {
    const accepted = new Set(iteration.accepted);
    // MTJD commits whole beams of the target: there is no bonus token, and no second model scores them.
    const scored = iteration.bonus !== null;
    // Index 0 is the root, then come the nodes, then the bonus token if there is one.
    const boxes = [{ ...root(), kind: "accepted", children: [], depth: 0 }];
    iteration.nodes.forEach((node, index) => {
      const parent = node.parent === null || node.parent === undefined ? 0 : node.parent + 1;
      const depth = boxes[parent].depth + 1;
      const kind = accepted.has(index) ? "accepted" : "rejected";
      const both = typeof node.draft === "number" && typeof node.target === "number";
      const ratio = both ? `, P−Q ${number(node.target - node.draft)}` : "";
      boxes[parent].children.push(boxes.length);
      boxes.push({
        kind, depth, parent, children: [], name: short(node.text),
        lines: [`Q ${typeof node.draft === "number" ? number(node.draft) : "–"}`, `P ${scored ? number(node.target) : "–"}`],
        about: `${quoted(node.text)}, depth ${depth}, ${kind}: Q ${typeof node.draft === "number" ? number(node.draft) : "unknown"}, P ${scored ? number(node.target) : "unknown"}${ratio}.`,
      });
    });
    if (!scored) return drawTree(boxes);
    const parent = iteration.accepted.length ? iteration.accepted.at(-1) + 1 : 0;
    boxes[parent].children.unshift(boxes.length);
    boxes.push({
      kind: "bonus", depth: boxes[parent].depth + 1, parent, children: [], name: short(iteration.bonus), lines: ["target"],
      about: `${quoted(iteration.bonus)}, drawn from the target after the accepted tokens.`,
    });
    return drawTree(boxes);
  }

  function drawTree(boxes) {
    // Leaves get rows from the top down; a parent is centred on its children. Children follow their parents.
    let rows = 0;
    const order = [0];
    for (let i = 0; i < order.length; i++) order.splice(i + 1, 0, ...boxes[order[i]].children);
    order.forEach((i) => { if (!boxes[i].children.length) boxes[i].row = rows++; });
    order.reverse().forEach((i) => {
      const { children } = boxes[i];
      if (children.length) boxes[i].row = (boxes[children[0]].row + boxes[children.at(-1)].row) / 2;
    });
    const x = (box) => 4 + box.depth * (WIDTH + GAP_X);
    const y = (box) => 4 + box.row * (HEIGHT + GAP_Y);
    const depth = Math.max(...boxes.map((box) => box.depth));
    const width = 8 + (depth + 1) * (WIDTH + GAP_X) - GAP_X;
    const height = 8 + rows * (HEIGHT + GAP_Y) - GAP_Y;
    const svg = element("svg", { width, height, role: "group", "aria-label": "Token tree" });
    for (const box of boxes.slice(1)) {
      const from = boxes[box.parent];
      const [x1, y1, x2, y2] = [x(from) + WIDTH, y(from) + HEIGHT / 2, x(box), y(box) + HEIGHT / 2];
      const bend = (x1 + x2) / 2;
      svg.append(element("path", { class: box.kind, d: `M${x1} ${y1}C${bend} ${y1} ${bend} ${y2} ${x2} ${y2}` }));
    }
    for (const box of order.reverse().map((i) => boxes[i])) {
      const group = element("g", { class: box.kind, tabindex: 0, role: "img", "aria-label": box.about });
      const lines = box.lines ?? ["root"];
      const [middle, top] = [x(box) + WIDTH / 2, y(box) + 7 * (2 - lines.length)];
      group.append(
        element("rect", { x: x(box), y: y(box), width: WIDTH, height: HEIGHT, rx: 8 }),
        element("text", { class: "name", x: middle, y: top + 20 }, box.name),
        ...lines.map((line, i) => element("text", { x: middle, y: top + 35 + 14 * i }, line)),
      );
      for (const event of ["pointerenter", "focus", "click"]) {
        group.addEventListener(event, () => { $("detail").textContent = box.about; });
      }
      svg.append(group);
    }
    return svg;
  }

  $("item").addEventListener("change", chooseItem);
  $("method").addEventListener("change", chooseMethod);
  $("first").addEventListener("click", () => go(0));
  $("back").addEventListener("click", () => go(state.step - 1));
  $("next").addEventListener("click", () => go(state.step + 1));
  $("last").addEventListener("click", () => go(Infinity));
  $("play").addEventListener("click", play);
  $("slider").addEventListener("input", (event) => { pause(); go(event.target.value - 1); });
  document.addEventListener("keydown", (event) => {
    const { target, key } = event;
    const ours = target === document.body || $("replay").contains(target);
    if (!ours || event.ctrlKey || event.altKey || event.metaKey || target.closest("select, input, summary")) return;
    const steps = { ArrowLeft: state.step - 1, ArrowRight: state.step + 1, Home: 0, End: Infinity };
    if (key in steps) { pause(); go(steps[key]); }
    else if (key === " " && target.tagName !== "BUTTON") play();
    else return;
    event.preventDefault();
  });

  options($("item"), items, 0);
  chooseItem();
})();
