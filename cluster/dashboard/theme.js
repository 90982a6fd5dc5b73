// Light or dark: the system's choice unless the reader chose. Loaded before anything is painted.
(function () {
  const KEY = "paceline.theme";
  const system = matchMedia("(prefers-color-scheme: dark)");

  function chosen() {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null; // storage is off: the choice lasts as long as the page
    }
  }

  function apply(theme) {
    document.documentElement.dataset.theme = theme;
    const button = document.getElementById("theme");
    if (button) {
      button.textContent = theme === "dark" ? "☀" : "☾";
      button.setAttribute("aria-label", theme === "dark" ? "Use the light theme" : "Use the dark theme");
    }
    document.dispatchEvent(new CustomEvent("themechange"));
  }

  function current() {
    return document.documentElement.dataset.theme;
  }

  apply(chosen() || (system.matches ? "dark" : "light"));
  system.addEventListener("change", () => chosen() || apply(system.matches ? "dark" : "light"));
  document.addEventListener("DOMContentLoaded", () => {
    apply(current());
    document.getElementById("theme").addEventListener("click", () => {
      const next = current() === "dark" ? "light" : "dark";
      try {
        localStorage.setItem(KEY, next);
      } catch {
        // as above
      }
      apply(next);
    });
  });
})();
