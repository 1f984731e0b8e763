// One column of results: the text while it streams, its figures, and its iterations one by one.

import { drawTree } from "/tree.js";

const PAUSE_MS = 700; // between two iterations while they are played
const PARTS = ["waiting", "prefill", "draft", "target", "orchestration"];
const LOSSLESS = { true: "lossless", false: "not lossless" };

const one = (x) => (x >= 100 ? x.toFixed(0) : x.toFixed(1));
const percent = (x) => `${Math.round(100 * x)} %`;
const make = (name, className, text) => Object.assign(document.createElement(name), { className, textContent: text });

// The speed of decoding alone, as the command line reports it: from the first iteration to the end.
export const tokensPerSecond = (s) => (1e3 * s.new_tokens) / (s.total_ms - s.waiting_ms - s.prefill_ms);

export class Lane {
  constructor() {
    this.element = document.getElementById("lane").content.firstElementChild.cloneNode(true);
    this.part = Object.fromEntries([...this.element.querySelectorAll("[data-part]")].map((part) => [part.dataset.part, part]));
    const { first, back, play, next, last, slider } = this.part;
    first.addEventListener("click", () => this.go(0));
    back.addEventListener("click", () => this.go(this.step - 1));
    next.addEventListener("click", () => this.go(this.step + 1));
    last.addEventListener("click", () => this.go(Infinity));
    play.addEventListener("click", () => (this.timer ? this.pause() : this.play()));
    slider.addEventListener("input", () => this.go(slider.value - 1));
    this.part.text.addEventListener("click", ({ target }) => target.dataset.step && this.go(Number(target.dataset.step)));
  }

  // Clears the column for a text by this method.
  reset(name) {
    this.pause();
    Object.assign(this, { name, iterations: [], spans: [], text: "", statistics: null, step: 0, follow: true, began: 0, drawn: null });
    this.part.title.textContent = name;
    this.part.problem.hidden = true;
    this.part.text.replaceChildren();
    this.part.tree.replaceChildren();
    this.part.detail.textContent = "";
    this.state("not run yet", "");
    this.render();
  }

  state(text, kind) {
    this.part.state.textContent = text;
    this.element.dataset.state = kind;
  }

  begin() {
    this.state("running…", "running");
  }

  // Adds a chunk of the stream: text, its tokens, and the iteration that generated them.
  chunk(choice, tandem) {
    this.began ||= performance.now();
    this.text += choice.text ?? choice.delta?.content ?? "";
    if (tandem?.iteration) this.iterations.push(tandem.iteration);
    for (const token of tandem?.tokens ?? []) {
      const span = make("span", `token ${token.drafted ? "drafted" : "drawn"}`, token.text);
      span.dataset.step = Math.max(0, this.iterations.length - 1);
      this.spans.push(span);
      this.part.text.append(span);
    }
    if (tandem?.statistics) {
      // If a stop string begins inside a token, the part of the token before it is in the text but in no token.
      const inTokens = this.spans.reduce((sum, span) => sum + span.textContent.length, 0);
      this.part.text.append(this.text.slice(inTokens));
      this.statistics = tandem.statistics;
      const { lossless, failovers, undrafted_iterations: undrafted } = tandem.statistics;
      const by = choice.finish_reason === "length" ? "at the limit" : tandem.stop ? `by ${JSON.stringify(tandem.stop)}` : "by its own end";
      const lost = [undrafted && `${undrafted} iterations without a draft`, failovers && `${failovers} failovers`].filter(Boolean);
      this.update();
      this.state([`ended ${by}`, LOSSLESS[lossless], `seed ${tandem.seed}`, ...lost].join(" · "), "done");
    }
    // Chunks can arrive faster than frames are drawn.
    this.frame ||= requestAnimationFrame(() => this.update());
  }

  update() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    if (this.follow) this.step = Math.max(0, this.iterations.length - 1);
    this.render();
    if (this.follow) this.part.text.scrollTop = this.part.text.scrollHeight;
  }

  stopped() {
    this.state("stopped", "stopped");
  }

  failed(message) {
    this.state("failed", "failed");
    this.part.problem.textContent = message;
    this.part.problem.hidden = false;
  }

  go(step) {
    this.pause();
    this.show(step);
  }

  show(step) {
    const last = this.iterations.length - 1;
    this.step = Math.min(Math.max(step, 0), Math.max(last, 0));
    this.follow = this.step >= last;
    this.render();
  }

  play() {
    if (this.step >= this.iterations.length - 1) this.show(0);
    this.timer = setInterval(() => {
      this.show(this.step + 1);
      if (this.follow) this.pause();
    }, PAUSE_MS);
    this.part.play.textContent = "Pause";
  }

  pause() {
    clearInterval(this.timer);
    this.timer = 0;
    this.part.play.textContent = "Play";
  }

  render() {
    this.renderFigures();
    this.renderDepths();
    this.renderTime();
    this.renderSteps();
    this.spans.forEach((span) => {
      const at = Number(span.dataset.step);
      span.classList.toggle("now", at === this.step);
      span.classList.toggle("later", at > this.step);
    });
  }

  // Figures counted here. They are shown until the server sends its own at the end.
  counted() {
    const accepted = this.iterations.reduce((sum, iteration) => sum + iteration.accepted_nodes.length, 0);
    const rounds = this.iterations.length;
    const seconds = (performance.now() - this.began) / 1e3;
    return {
      speed: rounds > 1 ? this.spans.length / seconds : null, tokens: this.spans.length, rounds,
      efficiency: rounds ? 1 + accepted / rounds : null, rate: null, first: null,
    };
  }

  renderFigures() {
    const s = this.statistics;
    const figures = s ? {
      speed: tokensPerSecond(s), tokens: s.new_tokens, rounds: s.iterations, efficiency: s.block_efficiency,
      rate: s.asked_tokens ? s.acceptance_rate : null, first: s.time_to_first_token_ms,
    } : this.counted();
    const shown = (x, write) => (x === null || !Number.isFinite(x) ? "–" : write(x));
    const rows = [
      ["tokens/s", shown(figures.speed, (x) => x.toFixed(0))],
      ["block efficiency", shown(figures.efficiency, (x) => x.toFixed(2))],
      ["accepted", shown(figures.rate, percent)],
      ["tokens", shown(figures.rounds || null, () => figures.tokens)],
      ["iterations", shown(figures.rounds || null, () => figures.rounds)],
      ["first token", shown(figures.first, (x) => `${one(x)} ms`)],
    ];
    this.part.figures.replaceChildren(...rows.map(([name, value]) => {
      const row = make("div", "");
      row.append(make("dt", "", name), make("dd", "", value));
      return row;
    }));
  }

  renderDepths() {
    const deepest = Math.max(0, ...this.iterations.map((iteration) => iteration.accepted_nodes.length));
    const counts = this.statistics?.accepted_by_depth
      ?? Array.from({ length: deepest }, (_, depth) => this.iterations.filter((iteration) => iteration.accepted_nodes.length > depth).length);
    const rounds = this.statistics?.iterations ?? this.iterations.length;
    const shares = counts.map((count) => (rounds ? count / rounds : 0));
    const bars = shares.map((share, i) => {
      const column = make("div", "");
      const bar = make("i", "");
      bar.style.height = `${100 * share}%`;
      const track = make("div", "column");
      track.append(bar);
      column.append(make("span", "", percent(share)), track, make("span", "depth", i + 1));
      return column;
    });
    const none = make("p", "none", rounds ? "no drafts" : "–");
    this.part.depths.replaceChildren(...(bars.length ? bars : [none]));
    const words = shares.map((share, i) => `depth ${i + 1}: ${percent(share)}`).join(", ");
    this.part.depths.setAttribute("aria-label", words || (rounds ? "no drafts" : "nothing yet"));
  }

  renderTime() {
    const s = this.statistics;
    const times = PARTS.map((name) => [name, s ? s[`${name}_ms`] : null]);
    const total = times.reduce((sum, [, ms]) => sum + (ms ?? 0), 0);
    this.part.share.replaceChildren(...times.map(([name, ms]) => {
      const piece = make("i", name);
      piece.style.flexGrow = ms ?? 0;
      return piece;
    }));
    this.part.parts.replaceChildren(...times.map(([name, ms]) => {
      const item = make("li", "");
      const value = ms === null ? "–" : `${one(ms)} ms, ${percent(total ? ms / total : 0)}`;
      item.append(make("i", name), make("span", "", name), make("b", "", value));
      return item;
    }));
  }

  renderSteps() {
    const { first, back, play, next, last, slider, step, tree, detail } = this.part;
    const count = this.iterations.length;
    const iteration = this.iterations[this.step];
    const inside = tree.contains(document.activeElement) || (count < 2 && slider.matches(":focus"));
    first.disabled = back.disabled = this.step === 0;
    next.disabled = last.disabled = this.step >= count - 1;
    play.disabled = slider.disabled = count < 2;
    slider.max = Math.max(1, count);
    slider.value = this.step + 1;
    slider.setAttribute("aria-valuetext", `${this.step + 1} of ${count}`);
    step.textContent = iteration
      ? `Iteration ${this.step + 1} of ${count}: ${iteration.tokens.length} proposed, ${iteration.accepted_nodes.length} accepted`
      : "Token tree";
    if (iteration === this.drawn) return;
    this.drawn = iteration;
    const before = this.iterations[this.step - 1];
    const root = before && (before.bonus_text || before.texts[before.accepted_nodes.at(-1)]);
    if (iteration) tree.replaceChildren(drawTree(iteration, root, (words) => { detail.textContent = words; }));
    // Keys work only while a node has the focus, and the node that had it is gone.
    if (inside) tree.querySelector("[tabindex='0']")?.focus();
  }
}
