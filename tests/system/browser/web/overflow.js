// What is wider than the window, and what is cut off within a box that does not scroll.
() => {
  const wide = document.scrollingElement.scrollWidth - innerWidth;
  const bad = wide > 0 ? [`the page by ${wide}`] : [];
  for (const one of document.querySelectorAll("main *")) {
    if (!one.checkVisibility() || one.closest(".wide") || one.closest("svg")) continue;
    const name = one.className || one.tagName;
    const box = one.getBoundingClientRect();
    if (box.right > innerWidth + 0.5 || box.left < -0.5) bad.push(`${name}: ${box.left} to ${box.right}`);
    const cut = one.scrollWidth > one.clientWidth + 1 && getComputedStyle(one).overflowX !== "visible";
    if (cut && one.tagName !== "PROGRESS") bad.push(`${name} is cut off`);
  }
  return bad;
}
