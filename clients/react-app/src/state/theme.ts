import { Store } from "./store";

export type Theme = "light" | "dark";

const KEPT = "mip.theme";
const kept = localStorage.getItem(KEPT);
const preferred: Theme = matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark";

export const theme = new Store<Theme>(kept === "light" || kept === "dark" ? kept : preferred);

document.documentElement.dataset.theme = theme.get();

export function setTheme(value: Theme): void {
  localStorage.setItem(KEPT, value);
  document.documentElement.dataset.theme = value;
  theme.set(value);
}
