// The camera: a stream, frames of it as JPEG files, and a loop that sends one frame after the other.

/** Longest side of a frame in pixels. */
const MAX_SIDE = 1280;

/** Opens the camera and returns a playing video element. Throws an error whose message tells the user what to do. */
export async function openCamera() {
  if (!navigator.mediaDevices) {
    throw new Error('Browsers give the camera to pages at localhost or with TLS only. Open this page there (serve --tls-cert, --tls-key).');
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 }, facingMode: 'environment' } });
  } catch (error) {
    throw new Error(error.name === 'NotAllowedError' ? 'The browser has no permission to use the camera.' : `The camera cannot be opened: ${error.message}.`);
  }
  const video = document.createElement('video');
  Object.assign(video, { srcObject: stream, muted: true, playsInline: true });
  video.setAttribute('aria-label', 'Camera');
  await video.play();
  return video;
}

/** Ends the stream of a video. */
export function closeCamera(video) {
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  video.srcObject = null;
}

/** Returns the current frame of a video as a JPEG file. */
export async function frameOf(video) {
  const scale = Math.min(1, MAX_SIDE / Math.max(video.videoWidth, video.videoHeight));
  const canvas = document.createElement('canvas');
  canvas.width = Math.round(video.videoWidth * scale);
  canvas.height = Math.round(video.videoHeight * scale);
  canvas.getContext('2d').drawImage(video, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error('The browser cannot encode the frame.'))), 'image/jpeg', 0.9);
  });
}

/**
 * Sends frames until `signal` is aborted, each after the result of the one before. `infer` returns a run for a frame;
 * `show` gets each run and the frames per second of the last two seconds.
 */
export async function live(video, infer, show, signal) {
  const ends = [];
  while (!signal.aborted) {
    const run = await infer(await frameOf(video), signal);
    if (signal.aborted) return;
    const now = performance.now();
    ends.push(now);
    while (ends.length > 2 && ends[0] < now - 2000) ends.shift();
    show(run, ends.length > 1 ? ((ends.length - 1) * 1000) / (now - ends[0]) : 0);
    // Lets the browser draw, and waits while the tab is hidden.
    await new Promise((resolve) => requestAnimationFrame(resolve));
  }
}
