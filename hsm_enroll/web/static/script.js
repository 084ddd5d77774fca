// What HTML cannot do. Without it, the pages work all the same.
"use strict";

for (const all of document.querySelectorAll("[data-selects]")) {
  const boxes = [...document.getElementsByName(all.dataset.selects)];
  const follow = () => {
    const checked = boxes.filter((box) => box.checked).length;
    all.checked = checked === boxes.length;
    all.indeterminate = checked > 0 && !all.checked;
  };
  all.hidden = boxes.length === 0;
  all.addEventListener("change", () => boxes.forEach((box) => { box.checked = all.checked; }));
  boxes.forEach((box) => box.addEventListener("change", follow));
  follow(); // after "back", the browser has filled the form in again
}

for (const button of document.querySelectorAll("[data-prints]")) {
  button.hidden = false;
  button.addEventListener("click", () => window.print());
}

// A second click, while new invites are on their way, would lose them: they are shown once.
for (const form of document.querySelectorAll("form[method=post]")) {
  form.addEventListener("submit", (event) => {
    if (form.ariaBusy === "true") event.preventDefault();
    form.ariaBusy = "true";
  });
  window.addEventListener("pageshow", () => { form.ariaBusy = null; }); // after "back"
}
