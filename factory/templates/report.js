// Tabs over the mixes and a filter over reasons. Without this script every mix stands below the other.
document.querySelectorAll("[data-tabs]").forEach((group) => {
  const panels = [...group.querySelectorAll(":scope > [data-tab]")];
  if (panels.length < 2) return;
  const bar = document.createElement("div");
  bar.className = "tabs";
  bar.setAttribute("role", "tablist");
  const show = (chosen) => panels.forEach((panel, i) => {
    panel.hidden = i !== chosen;
    bar.children[i].setAttribute("aria-selected", String(i === chosen));
  });
  panels.forEach((panel, i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("role", "tab");
    button.textContent = panel.dataset.tab;
    button.addEventListener("click", () => show(i));
    bar.append(button);
  });
  group.prepend(bar);
  show(0);
});
document.querySelectorAll(".rejected").forEach((side) => {
  const cards = [...side.querySelectorAll(".sample")];
  const reasons = [...new Set(cards.flatMap((card) => card.dataset.reasons.split(" ").filter(Boolean)))].sort();
  if (reasons.length < 2) return;
  const label = document.createElement("label");
  label.className = "filter";
  label.textContent = "show";
  const select = document.createElement("select");
  ["every reason", ...reasons].forEach((text, i) => select.add(new Option(text, i ? text : "")));
  select.addEventListener("change", () => cards.forEach((card) => {
    card.hidden = select.value !== "" && !card.dataset.reasons.split(" ").includes(select.value);
  }));
  label.append(select);
  side.querySelector("h4").append(label);
});
// The samples behind a point: one step at a time, chosen in a menu or by a point of a chart. Without this script the
// points lead to their step, and every step stands below the other.
document.querySelectorAll("[data-learning]").forEach((stage) => {
  const panels = [...stage.querySelectorAll("[data-panel]")];
  if (panels.length < 2) return;
  const make = (tag, text) => Object.assign(document.createElement(tag), { textContent: text });
  const label = make("label", "Samples of step ");
  const select = document.createElement("select");
  panels.forEach((panel) => {
    const note = panel.dataset.note ? ` – ${panel.dataset.note}` : "";
    select.add(new Option(Number(panel.dataset.panel).toLocaleString("en") + note, panel.dataset.panel));
  });
  const [back, on] = [make("button", "← earlier"), make("button", "later →")];
  [back, on].forEach((button) => { button.type = "button"; });
  const show = (step) => {
    select.value = step;
    panels.forEach((panel) => { panel.hidden = panel.dataset.panel !== step; });
    stage.querySelectorAll("[data-step]").forEach((mark) => {
      mark.classList.toggle("chosen", mark.dataset.step === step);
    });
    back.disabled = select.selectedIndex === 0;
    on.disabled = select.selectedIndex === panels.length - 1;
  };
  const move = (by) => show(panels[select.selectedIndex + by].dataset.panel);
  select.addEventListener("change", () => show(select.value));
  back.addEventListener("click", () => move(-1));
  on.addEventListener("click", () => move(1));
  // The link itself then leads to the panel, which is no longer hidden.
  stage.addEventListener("click", (event) => {
    const mark = event.target.closest("[data-step]");
    if (mark) show(mark.dataset.step);
  });
  const bar = document.createElement("div");
  bar.className = "steps";
  label.append(select);
  bar.append(label, back, on);
  stage.querySelector(".panels").before(bar);
  const linked = panels.find((panel) => `#${panel.id}` === location.hash);
  show((linked || panels[panels.length - 1]).dataset.panel);
});
// Older browsers print only what is unfolded.
window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => { d.open = true; }));
