// What pages do beyond htmx: an image may be dropped or pasted into the demo. Without JavaScript its form does the same.
// On the page of reviews a key does what the element that names it in `data-key` does; there is a button for each.
"use strict";
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
  const meant = document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
  if (!meant) return;
  event.preventDefault();
  if (meant.matches("input")) meant.focus();
  else meant.click();
});
(() => {
  const form = document.querySelector("form[data-drop]");
  if (!form) return;
  const input = form.querySelector("input[type=file]");
  const area = form.querySelector(".drop");
  const take = (files) => {
    const image = [...files].find((file) => file.size > 0);
    if (!image) return;
    const list = new DataTransfer();
    list.items.add(image);
    input.files = list.files;
    form.requestSubmit();
  };
  for (const name of ["dragenter", "dragover"]) {
    document.addEventListener(name, (event) => { event.preventDefault(); area.classList.add("over"); });
  }
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) area.classList.remove("over"); });
  document.addEventListener("drop", (event) => { event.preventDefault(); area.classList.remove("over"); take(event.dataTransfer.files); });
  document.addEventListener("paste", (event) => take(event.clipboardData.files));
  input.addEventListener("change", () => { if (input.files.length) form.requestSubmit(); });
})();
