"""Variants of the embedded data set (`wt_jax.data.synthetic`), each for methods that it cannot show anything of.

    python -m wt_jax.data.synthetic_variants KIND FOLDER

writes FOLDER/train and FOLDER/test, one folder for each class. KIND is

* `lasting`: shapes live as long as the video, so that order and playback rate can be seen; the classes are the motions.
  Overlapping or not, two stretches of a video then show the same shapes.
* `sequences`: one motion, then another; the class is the pair in its order, so that no average over clips can tell a class from
  its reverse. For encoders of whole videos.
* `spoken`: as `lasting`, with a voice that says what moves how, 16 kHz, AAC. The test has other voices and other wordings than
  training. It needs the program espeak-ng; speech is synthetic, and so is every number from it.
"""

import itertools
import shutil
import subprocess
import sys
import wave
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from wt_jax.data.synthetic import H264, LIFE, RATE, Scene, render, write_mp4
from wt_jax.errors import UserError
from wt_jax.files import atomic_path

FRAMES, SIZE = 96, 32
# More, smaller and slower shapes than the embedded set has, and fewer kinds of motion: the keys of `SPOKEN`.
SCENE = Scene(shapes=7, radii=(0.10, 0.16), step=0.045, swing=0.1, speeds=(0.6, 1.6))
PHASES = ("slide", "climb", "spin", "pulse")  # motions of `sequences`
SPOKEN = {
    "bob": ("up and down again and again", "rising and falling in turns"),
    "circle": ("round and round in circles", "along a ring without end"),
    "climb": ("straight up or straight down", "vertically all the way"),
    "pulse": ("growing and shrinking", "swelling larger then smaller"),
    "rest": ("not moving at all", "standing perfectly still"),
    "slide": ("straight across to one side", "horizontally all the way"),
    "spin": ("turning about itself", "rotating where it is"),
    "sway": ("left and right again and again", "swinging from side to side"),
}
MOTIONS = tuple(SPOKEN)
FRAMINGS = (("they are {}", "now you see them {}"), ("these shapes keep {}", "look, everything is {}"))  # training, test
VOICES = (
    ("en-us+m1", "en-us+m3", "en-us+f1", "en-us+f3", "en-gb+m2", "en-gb+f2"),
    ("en-us+m7", "en-us+f4", "en-gb+m5", "en-gb-scotland+f5"),
)
SOUND_RATE = 16000


def lasting(motion: str, rng: np.random.Generator, part: int, path: Path) -> None:
    """A video whose shapes last."""
    write_mp4(path, render(motion, rng, frames=FRAMES, size=SIZE, life=FRAMES, scene=SCENE))


def sequence(classes: str, rng: np.random.Generator, part: int, path: Path) -> None:
    """A video of two motions, "FIRST-SECOND", half of it each."""
    halves = [render(motion, rng, frames=FRAMES // 2, size=SIZE, life=LIFE, scene=SCENE) for motion in classes.split("-")]
    write_mp4(path, np.concatenate(halves))


def spoken(motion: str, rng: np.random.Generator, part: int, path: Path) -> None:
    """A video whose shapes last, and a voice; `part` 0 has the voices and framings of training, 1 those of the test."""
    frames = render(motion, rng, frames=FRAMES, size=SIZE, life=FRAMES, scene=SCENE)
    sentence = str(rng.choice(FRAMINGS[part])).format(rng.choice(SPOKEN[motion]))
    samples = speak(sentence, str(rng.choice(VOICES[part])), int(rng.integers(140, 190)), path.with_suffix(".wav"))
    write_sounding_mp4(path, frames, samples)


def speak(sentence: str, voice: str, speed: int, draft: Path) -> np.ndarray:
    """A sentence as float32 (n,) in [-1, 1] at `SOUND_RATE`, by espeak-ng, `speed` in words per minute.

    Raises:
      UserError: there is no espeak-ng.
    """
    if shutil.which("espeak-ng") is None:
        raise UserError("the program espeak-ng is missing; on Debian: apt-get install espeak-ng")
    subprocess.run(["espeak-ng", "-v", voice, "-s", str(speed), "-w", str(draft), sentence], check=True)
    with wave.open(str(draft)) as file:
        rate, samples = file.getframerate(), np.frombuffer(file.readframes(file.getnframes()), np.int16) / 32768
    draft.unlink()
    at = np.arange(int(len(samples) * SOUND_RATE / rate)) * rate / SOUND_RATE
    return np.interp(at, np.arange(len(samples)), samples).astype(np.float32)


def write_sounding_mp4(path: Path, frames: np.ndarray, samples: np.ndarray) -> None:
    """Frames (T, H, W, 3) uint8 as H.264 at `RATE`, and samples, repeated to their length, as AAC."""
    length = len(frames) * SOUND_RATE // RATE
    samples = np.resize(np.append(samples, np.zeros(SOUND_RATE // 5, np.float32)), length).astype(np.float32)
    with av.open(str(path), "w", format="mp4") as container:
        video, audio = container.add_stream("libx264", RATE, H264), container.add_stream("aac", SOUND_RATE)
        video.height, video.width, video.pix_fmt, audio.layout = frames.shape[1], frames.shape[2], "yuv420p", "mono"
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = index, Fraction(1, RATE)
            container.mux(video.encode(picture))
        container.mux(video.encode())
        for start in range(0, length, 1024):
            sound = av.AudioFrame.from_ndarray(samples[None, start : start + 1024], format="fltp", layout="mono")
            sound.sample_rate, sound.pts, sound.time_base = SOUND_RATE, start, Fraction(1, SOUND_RATE)
            container.mux(audio.encode(sound))
        container.mux(audio.encode())


Writer = Callable[[str, np.random.Generator, int, Path], None]
PAIRS = tuple("-".join(pair) for pair in itertools.permutations(PHASES, 2))
# KIND: (what writes a video, the classes, videos for training and test)
KINDS: dict[str, tuple[Writer, tuple[str, ...], tuple[int, int]]] = {
    "lasting": (lasting, MOTIONS, (320, 200)),
    "sequences": (sequence, PAIRS, (480, 240)),
    "spoken": (spoken, MOTIONS, (480, 160)),
}


def write_variant(kind: str, folder: Path, counts: tuple[int, int] | None = None) -> None:
    """Write a variant, the classes evenly filled, every video drawn from (its part, its number); files that are there stay.

    Raises:
      UserError: there is no such variant, or a program is missing.
    """
    if kind not in KINDS:
        raise UserError(f"unknown kind {kind!r}; there are {', '.join(KINDS)}")
    write, classes, usual = KINDS[kind]
    for part, (name, count) in enumerate(zip(("train", "test"), counts or usual, strict=True)):
        for index in range(count):
            label = classes[index % len(classes)]
            path = folder / name / label / f"{index:04d}.mp4"
            if not path.exists():
                with atomic_path(path) as draft:
                    write(label, np.random.default_rng((part, index)), part, draft)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m wt_jax.data.synthetic_variants KIND FOLDER")
    try:
        write_variant(sys.argv[1], Path(sys.argv[2]))
    except UserError as error:
        sys.exit(str(error))
