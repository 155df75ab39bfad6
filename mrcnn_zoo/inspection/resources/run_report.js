"use strict";
// Pictures of the galleries and the plots open in full size.
const dialog = document.createElement("dialog");
const shown = document.createElement("img");
dialog.append(shown);
document.body.append(dialog);
dialog.addEventListener("click", () => dialog.close());
for (const picture of document.querySelectorAll(".card img, figure img")) {
  picture.addEventListener("click", () => {
    shown.src = picture.src;
    shown.alt = picture.alt;
    dialog.showModal();
  });
}
