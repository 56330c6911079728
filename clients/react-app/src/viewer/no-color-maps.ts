/**
 * In the place of vtk.js's colour maps, a hundred of them: images are gray here, or have their own colours. The two that
 * a gray image has are looked for when its window is reset.
 */
const BLACK_TO_WHITE = [0, 0, 0, 0, 1, 1, 1, 1];
const WHITE_TO_BLACK = [0, 1, 1, 1, 1, 0, 0, 0];

export default [
  { Name: "Grayscale", ColorSpace: "RGB", RGBPoints: BLACK_TO_WHITE },
  { Name: "X Ray", ColorSpace: "RGB", RGBPoints: WHITE_TO_BLACK },
];
