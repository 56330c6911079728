/**
 * In the place of xmlbuilder2, which vtk.js reads VTK's XML meshes with: it needs modules of Node that a browser
 * hasn't, and fails as soon as it is loaded. No mesh is read here.
 */
function refuse(): never {
  throw new Error("meshes in VTK's XML can't be read here");
}

export const create = refuse;
