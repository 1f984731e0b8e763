// The token tree of one iteration as SVG: the root on the left, a column per depth.

const [WIDTH, HEIGHT, GAP_X, GAP_Y, EDGE] = [66, 34, 14, 6, 3]; // of a node, between nodes, around all
const CHARS = 8; // of a token's text that a node has room for
const BAR = WIDTH - 12;
const SIGNS = { " ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍" };

const visible = (text) => (text === "" ? "∅" : text.replace(/[ \n\t\r]/g, (c) => SIGNS[c]));
const shortened = (text) => {
  const chars = [...visible(text)];
  return chars.length > CHARS ? chars.slice(0, CHARS - 1).join("") + "…" : chars.join("");
};
// A log-probability; null stands for minus infinity, undefined for one that was not computed.
const nats = (x) => (x === undefined ? "–" : x === null ? "−∞" : x.toFixed(2).replace("-", "−"));

function svg(name, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

// Places of the tree: 0 is the root, then the nodes, the target's own token last. Children come after parents.
function places(iteration, rootText) {
  const accepted = new Set(iteration.accepted_nodes);
  const list = [{ text: rootText ?? "", kind: "accepted root", depth: 0, children: [] }];
  const add = (parent, place) => {
    list[parent].children.push(list.length);
    list.push({ ...place, parent, depth: list[parent].depth + 1, children: [] });
  };
  iteration.tokens.forEach((_, i) => add(iteration.parents[i] + 1, {
    text: iteration.texts[i], kind: accepted.has(i) ? "accepted" : "rejected",
    q: iteration.draft_joint_log_probs[i], p: iteration.target_joint_log_probs[i],
  }));
  if (iteration.bonus_token != null) {
    add((iteration.accepted_nodes.at(-1) ?? -1) + 1, { text: iteration.bonus_text, kind: "bonus" });
  }
  return list;
}

// Leaves take rows from the top; a parent stands in the middle of its children.
function setRows(list) {
  let rows = 0;
  const visit = (place) => {
    place.children.forEach((child) => visit(list[child]));
    const ends = [list[place.children[0]], list[place.children.at(-1)]];
    place.row = place.children.length ? (ends[0].row + ends[1].row) / 2 : rows++;
  };
  visit(list[0]);
  return rows;
}

function about({ text, kind, depth, q, p }) {
  if (kind === "accepted root") return text ? `“${visible(text)}”, the last token so far.` : "The end of the prompt.";
  if (kind === "bonus") return `“${visible(text)}”, drawn by the target after the accepted tokens.`;
  const ratio = typeof q === "number" && typeof p === "number" ? `, P − Q ${nats(p - q)}` : "";
  return `“${visible(text)}”, depth ${depth}, ${kind}: Q ${nats(q)}, P ${nats(p)}${ratio}`;
}

// A probability from 0 to 1 as a thin bar in its track.
function bar(x, y, name, log) {
  const rect = (kind, width) => svg("rect", { class: kind, x, y, width, height: 3, rx: 1.5 });
  const width = BAR * Math.exp(log ?? -Infinity);
  return width < 1 ? [rect("track", BAR)] : [rect("track", BAR), rect(name, width)];
}

function node(place, x, y) {
  const label = place.kind === "accepted root" && !place.text ? "prompt" : shortened(place.text);
  const group = svg("g", { class: place.kind, role: "img", tabindex: -1, "aria-label": about(place) },
    svg("rect", { class: "box", x, y, width: WIDTH, height: HEIGHT, rx: 6 }));
  const bars = place.q !== undefined;
  group.append(svg("text", { x: x + WIDTH / 2, y: y + (bars ? 16 : 21.5) }, label));
  if (bars) group.append(...bar(x + 6, y + 22, "q", place.q));
  if (bars && place.p !== undefined) group.append(...bar(x + 6, y + 27, "p", place.p));
  return group;
}

// Draws it. `told` gets the words about the node that is pointed at or focused. One node is in the tab order; arrows go on from there.
export function drawTree(iteration, rootText, told) {
  const list = places(iteration, rootText);
  const rows = setRows(list);
  const left = (place) => EDGE + place.depth * (WIDTH + GAP_X);
  const top = (place) => EDGE + place.row * (HEIGHT + GAP_Y);
  const depths = Math.max(...list.map((place) => place.depth)) + 1;
  const [width, height] = [2 * EDGE + depths * (WIDTH + GAP_X) - GAP_X, 2 * EDGE + rows * (HEIGHT + GAP_Y) - GAP_Y];
  const drawing = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "Token tree" });

  // The accepted path lies above the others.
  const edges = list.slice(1).sort((a, b) => (b.kind === "rejected") - (a.kind === "rejected"));
  for (const place of edges) {
    const [x, y] = [left(place), top(place) + HEIGHT / 2];
    const [fromX, fromY] = [x - GAP_X, top(list[place.parent]) + HEIGHT / 2];
    const bend = x - GAP_X / 2;
    drawing.append(svg("path", { class: place.kind, d: `M${fromX} ${fromY}C${bend} ${fromY} ${bend} ${y} ${x} ${y}` }));
  }

  const groups = list.map((place) => node(place, left(place), top(place)));
  groups.forEach((group, i) => {
    for (const event of ["pointerenter", "focus", "click"]) group.addEventListener(event, () => told(about(list[i])));
    group.addEventListener("keydown", (event) => {
      const siblings = list.flatMap((other, at) => (other.depth === list[i].depth ? [at] : [])).sort((a, b) => list[a].row - list[b].row);
      const at = siblings.indexOf(i);
      const path = list[i].children.find((child) => list[child].kind !== "rejected") ?? list[i].children[0];
      const next = { ArrowLeft: list[i].parent, ArrowRight: path, ArrowUp: siblings[at - 1], ArrowDown: siblings[at + 1] }[event.key];
      if (event.key.startsWith("Arrow")) event.preventDefault();
      if (next === undefined) return;
      group.setAttribute("tabindex", -1);
      groups[next].setAttribute("tabindex", 0);
      groups[next].focus();
    });
    drawing.append(group);
  });

  // Shown first: the deepest accepted node.
  const deepest = (iteration.accepted_nodes.at(-1) ?? -1) + 1;
  groups[deepest].setAttribute("tabindex", 0);
  told(about(list[deepest]));
  return drawing;
}
