// Applies the chosen color scheme before the first paint. Without a choice the page follows the system.
try {
  const chosen = localStorage.getItem('sightline-theme');
  if (chosen) document.documentElement.dataset.theme = chosen;
} catch {
  // Storage is off: the page follows the system.
}
