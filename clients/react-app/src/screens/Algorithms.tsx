export default function Algorithms() {
  return null;
}
