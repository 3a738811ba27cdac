// Runs before the page is painted, so that a dark page never flashes white. Not a module: modules run later.
"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    let chosen = null;
    try {
      chosen = JSON.parse(localStorage.getItem("gemlet.theme") ?? "null");
    } catch {
      // Storage is forbidden: follow the system.
    }
    const follows = chosen !== "light" && chosen !== "dark";
    document.documentElement.dataset.theme = follows ? (dark.matches ? "dark" : "light") : chosen;
  };
  apply();
  dark.addEventListener("change", apply);
  document.addEventListener("themechange", apply);
})();
