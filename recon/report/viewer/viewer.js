// The interactive viewer of report.html. Bundled with three.js by scripts/bundle_viewer.sh.
import {
  Box3,
  BufferGeometry,
  CanvasTexture,
  Float32BufferAttribute,
  Group,
  LineBasicMaterial,
  LineSegments,
  Mesh,
  MeshBasicMaterial,
  MeshStandardMaterial,
  Matrix4,
  NeutralToneMapping,
  NoToneMapping,
  PerspectiveCamera,
  PlaneGeometry,
  PMREMGenerator,
  Scene,
  SRGBColorSpace,
  TextureLoader,
  Vector3,
  WebGLRenderer,
} from "three";
import { OrbitControls } from "three/addons/controls/OrbitControls.js";
import { RoomEnvironment } from "three/addons/environments/RoomEnvironment.js";
import { GLTFLoader } from "three/addons/loaders/GLTFLoader.js";

const FOV_DEG = 30;
const START_AZIMUTH_DEG = 28;
const START_ELEVATION_DEG = 16;
const TURN_DEG_PER_S = 24;

/**
 * Draw a GLB in `holder` and return what its buttons can do.
 *
 * options.cameras: [{name, matrix (row-major camera-to-asset, OpenGL axes), fov_deg, aspect}]
 * options.overlay: address of the cover's picture in the asset's texture coordinates
 */
export async function openViewer(holder, glb, options) {
  const renderer = new WebGLRenderer({ antialias: true, alpha: true });
  renderer.setPixelRatio(Math.min(window.devicePixelRatio, 2));
  holder.append(renderer.domElement);
  const gltf = await new GLTFLoader().parseAsync(glb, "");
  const overlay = await loadOverlay(options.overlay);
  return new Viewer(holder, renderer, gltf.scene, overlay, options.cameras);
}

async function loadOverlay(address) {
  const texture = await new TextureLoader().loadAsync(address);
  texture.flipY = false;
  texture.colorSpace = SRGBColorSpace;
  return texture;
}

class Viewer {
  constructor(holder, renderer, model, overlay, cameras) {
    Object.assign(this, { holder, renderer, model, cameras });
    const box = new Box3().setFromObject(model);
    this.centre = box.getCenter(new Vector3());
    this.radius = box.getSize(new Vector3()).length() / 2;
    this.camera = new PerspectiveCamera(FOV_DEG, 1, this.radius / 100, this.radius * 100);
    this.scene = this.#lightScene();
    this.scene.add(model, this.#shadow(box));
    this.parts = this.#dress(overlay);
    this.frusta = this.#frusta();
    this.scene.add(this.frusta);
    this.controls = this.#controls();
    this.turning = false;
    this.through = null;
    this.setShading("lit");
    this.reset();
    new ResizeObserver(() => this.#resize()).observe(holder);
    this.#resize();
  }

  #lightScene() {
    const scene = new Scene();
    const makeEnvironment = new PMREMGenerator(this.renderer);
    scene.environment = makeEnvironment.fromScene(new RoomEnvironment()).texture;
    makeEnvironment.dispose();
    scene.environmentIntensity = 0.8; // the texture holds some light of the photos already
    return scene;
  }

  /** A soft round shadow on the ground, so that the asset stands instead of hovering. */
  #shadow(box) {
    const canvas = Object.assign(document.createElement("canvas"), { width: 256, height: 256 });
    const pen = canvas.getContext("2d");
    const fade = pen.createRadialGradient(128, 128, 0, 128, 128, 128);
    fade.addColorStop(0, "rgba(0,0,0,0.42)");
    fade.addColorStop(0.45, "rgba(0,0,0,0.2)");
    fade.addColorStop(1, "rgba(0,0,0,0)");
    pen.fillStyle = fade;
    pen.fillRect(0, 0, 256, 256);
    const size = box.getSize(new Vector3());
    const material = new MeshBasicMaterial({ map: new CanvasTexture(canvas), transparent: true, depthWrite: false });
    const ground = new Mesh(new PlaneGeometry(size.x * 1.7, size.z * 1.7), material);
    ground.rotation.x = -Math.PI / 2;
    ground.position.set(this.centre.x, box.min.y - this.radius * 0.002, this.centre.z);
    return ground;
  }

  /** Every mesh of the asset with the materials that it can be shown in. */
  #dress(overlay) {
    const parts = [];
    this.model.traverse((mesh) => {
      if (!mesh.isMesh) return;
      const lit = mesh.material;
      lit.map && (lit.map.anisotropy = this.renderer.capabilities.getMaxAnisotropy());
      const shared = { normalMap: lit.normalMap, normalScale: lit.normalScale, side: lit.side };
      parts.push({
        mesh,
        lit,
        texture: new MeshBasicMaterial({ map: lit.map, side: lit.side }),
        clay: new MeshStandardMaterial({ color: 0xb9b6b0, roughness: 0.85, ...shared }),
        wire: new MeshStandardMaterial({ color: 0xb9b6b0, roughness: 0.85, flatShading: true, side: lit.side }),
        cover: new MeshStandardMaterial({ map: overlay, roughness: 1, side: lit.side }),
      });
    });
    for (const part of parts) {
      const lines = new MeshBasicMaterial({ color: 0x20303c, wireframe: true, transparent: true, opacity: 0.35 });
      part.lines = new Mesh(part.mesh.geometry, lines);
      part.lines.visible = false;
      part.mesh.add(part.lines);
    }
    return parts;
  }

  /** The photos' cameras as small pyramids. */
  #frusta() {
    const group = new Group();
    const distances = this.cameras.map((c) => new Vector3(c.matrix[3], c.matrix[7], c.matrix[11]).distanceTo(this.centre));
    distances.sort((a, b) => a - b);
    const depth = 0.07 * (distances[distances.length >> 1] ?? this.radius);
    for (const { name, matrix, fov_deg, aspect } of this.cameras) {
      const y = depth * Math.tan((fov_deg * Math.PI) / 360);
      const x = y * aspect;
      const corners = [[-x, y], [x, y], [x, -y], [-x, -y]];
      const ends = [];
      corners.forEach(([a, b], k) => {
        const [c, d] = corners[(k + 1) % 4];
        ends.push(0, 0, 0, a, b, -depth, a, b, -depth, c, d, -depth);
      });
      ends.push(-x * 0.5, y, -depth, 0, y * 1.4, -depth, 0, y * 1.4, -depth, x * 0.5, y, -depth); // which way is up
      const lines = new LineSegments(
        new BufferGeometry().setAttribute("position", new Float32BufferAttribute(ends, 3)),
        new LineBasicMaterial({ color: 0x3b82c4 }),
      );
      lines.name = name;
      lines.applyMatrix4(new Matrix4().set(...matrix));
      group.add(lines);
    }
    group.visible = false;
    return group;
  }

  #controls() {
    const controls = new OrbitControls(this.camera, this.renderer.domElement);
    controls.enableDamping = true;
    controls.minDistance = this.radius * 0.4;
    controls.maxDistance = this.radius * 30;
    controls.addEventListener("start", () => {
      this.#leavePhoto();
      this.setTurning(false);
    });
    controls.addEventListener("change", () => this.#ask());
    return controls;
  }

  /** lit, texture, clay, wire or cover. */
  setShading(shading) {
    for (const part of this.parts) {
      part.mesh.material = part[shading];
      part.lines.visible = shading === "wire";
    }
    this.renderer.toneMapping = shading === "texture" ? NoToneMapping : NeutralToneMapping;
    this.#ask();
  }

  showCameras(shown) {
    this.frusta.visible = shown;
    if (this.through === null) this.#frame();
    this.#ask();
  }

  setTurning(turning) {
    this.turning = turning;
    this.controls.autoRotate = turning;
    this.controls.autoRotateSpeed = TURN_DEG_PER_S / 6;
    this.holder.dispatchEvent(new CustomEvent("turning", { detail: turning }));
    this.#ask();
  }

  /** Look at the asset as a photo did; null goes back to the free view. */
  lookThrough(index) {
    if (index === null) return this.reset();
    const { matrix } = this.cameras[index];
    this.setTurning(false);
    this.through = index;
    new Matrix4().set(...matrix).decompose(this.camera.position, this.camera.quaternion, new Vector3());
    this.frusta.children.forEach((lines, k) => lines.material.color.set(k === index ? 0xe0522c : 0x3b82c4));
    this.#resize();
  }

  reset() {
    this.#leavePhoto();
    const azimuth = (START_AZIMUTH_DEG * Math.PI) / 180;
    const elevation = (START_ELEVATION_DEG * Math.PI) / 180;
    const away = new Vector3(Math.sin(azimuth), Math.tan(elevation), Math.cos(azimuth)).normalize();
    this.camera.position.copy(this.centre).add(away);
    this.controls.target.copy(this.centre);
    this.#frame();
  }

  /** From the photo's own view to the free one, at the same place. */
  #leavePhoto() {
    if (this.through === null) return;
    this.through = null;
    this.camera.fov = FOV_DEG;
    this.frusta.children.forEach((lines) => lines.material.color.set(0x3b82c4));
    this.#resize();
    this.holder.dispatchEvent(new CustomEvent("freed"));
  }

  /** Step back along the present direction until the asset, and its cameras where they are shown, fill the picture. */
  #frame() {
    const away = this.camera.position.clone().sub(this.controls.target).normalize();
    const box = new Box3().setFromObject(this.model);
    const shown = this.frusta.visible ? this.frusta.children.map((lines) => lines.position) : [];
    shown.forEach((position) => box.expandByPoint(position));
    const middle = box.getCenter(new Vector3());
    const radius = Math.max(this.radius + this.centre.distanceTo(middle), ...shown.map((p) => p.distanceTo(middle)));
    const half = (FOV_DEG * Math.PI) / 360;
    const narrow = Math.min(half, Math.atan(Math.tan(half) * this.camera.aspect));
    this.camera.position.copy(middle).addScaledVector(away, (radius * 1.02) / Math.sin(narrow));
    this.controls.target.copy(middle);
    this.controls.update();
    this.#ask();
  }

  #resize() {
    const { clientWidth: w, clientHeight: h } = this.holder;
    if (!w || !h) return;
    const first = this.renderer.domElement.style.width === "";
    this.renderer.setSize(w, h);
    this.camera.aspect = w / h;
    if (this.through !== null) {
      const { fov_deg, aspect } = this.cameras[this.through];
      const narrower = Math.max(1, aspect / this.camera.aspect); // all of the photo stays in the picture
      this.camera.fov = (2 * 180 * Math.atan(Math.tan((fov_deg * Math.PI) / 360) * narrower)) / Math.PI;
    }
    this.camera.updateProjectionMatrix();
    first && this.#frame();
    this.#draw();
  }

  #ask() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => {
      this.asked = false;
      if (this.through === null) this.controls?.update(); // damping and turning ask for the next picture by themselves
      this.#draw();
    });
  }

  #draw() {
    this.renderer.render(this.scene, this.camera);
  }
}
