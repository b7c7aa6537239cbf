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
// Older browsers print only what is unfolded.
window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => { d.open = true; }));
