"""A corpus of speech-like sounds, made by a source and a filter, for a run of the whole program without any data.

An utterance is a random string of syllables. Each glottal cycle is one pulse, made in the frequency domain: the
causal-anticausal source of Doval, d'Alessandro & Henrich (2003) times the formant resonances of that instant. Noise is
shaped frame by frame.
"""

import csv
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

NAME = "npser-synthetic"
NOTICE = "The synthetic corpus shows that the program works; scores on it mean nothing about real speech."


class Style(NamedTuple):
    """How an emotion deviates from the same speaker's neutral voice."""

    f0: float  # mean F0, semitones
    span: float  # F0 range, %
    glide: float  # movement of F0 in accents and at the end of the utterance, semitones: more is rising
    rate: float  # speech rate, %
    level: float  # dB
    tilt: float  # attenuation at 3 kHz, dB: more is a darker voice
    jitter: float  # cycle-to-cycle variation of period and amplitude, %
    pauses: float  # number of pauses, %
    vowels: float  # distance of the vowels from schwa (precision of articulation), %


# The directions, and roughly the sizes, are the published ones: R. Banse & K. R. Scherer (1996), Acoustic profiles in vocal
# emotion expression, JPSP 70:614-636, tables 5 and 6 (mean F0, its range, energy, rate, energy above 1 kHz); P. N. Juslin &
# P. Laukka (2003), Communication of emotions in vocal expression and music performance, Psychological Bulletin 129:770-814,
# tables 7 and 11 (the same with pauses, contours, articulation and jitter).
# fmt: off
STYLES = {
    #                f0  span glide rate level tilt jitter pauses vowels
    "angry":   Style(4.0,  50,  0.0,  22,  7.5, -8.0,  40,  -50,  15),
    "happy":   Style(4.5,  80,  7.0,  12,  3.5, -2.5,  20,  -40,   8),
    "neutral": Style(0.0,   0,  0.0,   0,  0.0,  0.0,   0,    0,   0),
    "sad":     Style(-2.0, -50, -4.0, -25, -6.0,  6.5, -20,  200, -20),
}
# Standard deviation of each around its value, from utterance to utterance.
SPREAD =       Style(0.6,   9,  0.6,   5,  1.6,  1.3,  12,   25,   4)


class Voice(NamedTuple):
    """A speaker's neutral voice and the channel that he or she is recorded through."""

    gender: str
    f0: float  # Hz
    tract: float  # factor on all formants: 1 for the mean man, about 1.17 for the mean woman
    tilt: float  # dB at 3 kHz
    breath: float  # aspiration noise, dB below the voice
    jitter: float  # %
    rate: float  # factor on all durations' inverse
    gain: float  # dB
    channel: float  # dB an octave, around 1 kHz


VOICES = {
    "1F": Voice("female", 208, 1.16,  9.0, 24, 0.6, 1.00,  0.0,  0.0),
    "1M": Voice("male",   118, 1.00,  8.0, 28, 0.8, 1.04,  1.0, -0.3),
    "2F": Voice("female", 198, 1.14,  8.0, 26, 0.7, 1.05,  1.5,  0.4),
    "2M": Voice("male",   110, 0.98,  9.5, 25, 1.0, 0.97, -1.0, -0.2),
    "3F": Voice("female", 220, 1.19, 10.0, 22, 0.5, 0.95, -1.5,  0.3),
    "3M": Voice("male",   128, 1.03,  7.5, 29, 0.7, 1.07,  0.5,  0.5),
    "4F": Voice("female", 200, 1.17,  8.5, 26, 0.7, 1.03, -0.5, -0.5),
    "4M": Voice("male",   112, 0.98,  9.0, 23, 0.9, 0.95,  0.0,  0.3),
    "5F": Voice("female", 212, 1.14,  9.5, 24, 0.6, 1.02,  1.0, -0.3),
    "5M": Voice("male",   123, 1.01,  8.5, 27, 0.8, 0.98, -1.0,  0.2),
}

# F1..F4 (Hz) of the mean man: J. Hillenbrand et al. (1995), Acoustic characteristics of American English vowels, JASA 97:3099.
VOWELS = np.array([
    (342, 2322, 3000, 3657), (427, 2034, 2684, 3618), (476, 2089, 2691, 3649), (580, 1799, 2605, 3677),
    (588, 1952, 2601, 3624), (768, 1333, 2522, 3687), (652,  997, 2538, 3486), (497,  910, 2459, 3384),
    (469, 1122, 2434, 3400), (378,  997, 2343, 3357), (623, 1200, 2550, 3557), (474, 1379, 1710, 3334),
], float)
SCHWA = np.array((500, 1500, 2500, 3500), float)
BANDWIDTHS = (70, 95, 140, 220)  # Hz
UPPER = np.arange(4300, 30_000, 1000).astype(np.float32)  # Hz: the resonances that do not move; bandwidth 8 %

# kind of consonant: its parts in time, each (seconds, voice, aspiration, noise, dullness in dB at 3 kHz)
KINDS = {
    "voiceless stop": ((0.060, 0, 0, 0, 0), (0.010, 0, 0.1, 1, 0), (0.030, 0, 0.35, 0.1, 0)),
    "voiced stop": ((0.050, 0.15, 0, 0, 25), (0.010, 0.4, 0.1, 0.6, 5)),
    "voiceless fricative": ((0.100, 0, 0.05, 1, 0),),
    "voiced fricative": ((0.065, 0.3, 0.05, 0.6, 15),),
    "nasal": ((0.060, 0.5, 0, 0, 12),),
    "approximant": ((0.060, 0.65, 0, 0, 4),),
}
# kind, F1..F3 (Hz: the locus that the neighbours bend towards), the noise's centre and width (Hz) and level
CONSONANTS = (
    ("voiceless stop", 300,  900, 2300,  900,  900, 0.15),  # p
    ("voiceless stop", 300, 1750, 2650, 4200, 1500, 0.25),  # t
    ("voiceless stop", 300, 2050, 2400, 2000,  600, 0.25),  # k
    ("voiced stop",    250,  900, 2300,  800,  800, 0.15),  # b
    ("voiced stop",    250, 1750, 2650, 4000, 1500, 0.20),  # d
    ("voiced stop",    250, 2050, 2400, 1900,  600, 0.20),  # g
    ("voiceless fricative", 320, 1000, 2300, 5500, 3500, 0.08),  # f
    ("voiceless fricative", 320, 1650, 2600, 6200, 1100, 0.45),  # s
    ("voiceless fricative", 320, 1850, 2500, 3500, 1000, 0.40),  # sh
    ("voiced fricative", 280, 1000, 2300, 5000, 3500, 0.08),  # v
    ("voiced fricative", 280, 1650, 2600, 6000, 1200, 0.35),  # z
    ("nasal",          260, 1100, 2200,    0,    1, 0.00),  # m
    ("nasal",          260, 1600, 2500,    0,    1, 0.00),  # n
    ("approximant",    360, 1200, 2650,    0,    1, 0.00),  # l
    ("approximant",    380, 1200, 1650,    0,    1, 0.00),  # r
    ("approximant",    320,  750, 2250,    0,    1, 0.00),  # w
)
# fmt: on

RATE = 16_000  # Hz
HOP = 80  # samples between two values of a control track: 5 ms
PULSE, BEFORE = 512, 160  # samples of a glottal pulse with the ring of the formants; of these before its closure
NOISE = 2 * HOP  # samples of a frame of noise
LEVEL, FLOOR, PEAK = -33.0, -72.0, 0.9  # dB re full scale of neutral voice and of the background; the highest sample


def notices(corpora: list[str]) -> list[str]:
    """What every output about these corpora has to say."""
    return [NOTICE] if NAME in corpora else []


def generate(
    folder: Path, utterances: int = 400, seed: int = 0, progress: Callable[[Iterable[int]], Iterable[int]] | None = None
) -> Path:
    """Write the synthetic corpus: 16 kHz mono 16-bit files of 1-4 s, and a manifest of them.

    Five sessions of one female and one male voice each; the emotions angry, happy, neutral and sad are balanced in each
    voice as well as the number allows. The sounds depend on `seed` and their own number only, and are the same, byte for
    byte, every time.

    Parameters
    ----------
    folder : Path
        Where the files go; made if it does not exist. Files of the same names are replaced.
    utterances : int
        How many, at least 40 (one for each voice and emotion).
    seed : int
        Not negative.
    progress : callable, optional
        Wrapped around the numbers of the utterances, as tqdm is.

    Returns
    -------
    Path
        `folder/manifest.csv`, with the columns path, emotion, speaker, gender, session and corpus. It is written last: while
        it is not there, the corpus is not complete.

    Raises
    ------
    ValueError
        When there are fewer than 40 utterances.
    """
    if utterances < len(VOICES) * len(STYLES):
        least = len(VOICES) * len(STYLES)
        raise ValueError(f"--synthetic-utterances {utterances}: the synthetic corpus needs at least {least}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    manifest, unfinished = folder / "manifest.csv", folder / "manifest.csv.part"
    manifest.unlink(missing_ok=True)
    speakers, emotions, rows = list(VOICES), list(STYLES), []
    for k in progress(range(utterances)) if progress else range(utterances):
        turn, who = divmod(k, len(speakers))
        speaker, emotion = speakers[who], emotions[(turn + who) % len(emotions)]
        name = f"{speaker}_{k:05d}_{emotion}.wav"
        soundfile.write(folder / name, utterance(speaker, emotion, seed, k).sound, RATE, subtype="PCM_16")
        rows.append((name, emotion, speaker, VOICES[speaker].gender, speaker[0], NAME))
    with open(unfinished, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("path", "emotion", "speaker", "gender", "session", "corpus"), *rows])
    os.replace(unfinished, manifest)
    return manifest


class Utterance(NamedTuple):
    """Sound (T * HOP,) at 16 kHz, within +-PEAK, and what it was made of: F0 (T,) in Hz and the loudness of the voice (T,)."""

    sound: np.ndarray
    f0: np.ndarray
    loudness: np.ndarray


def utterance(speaker: str, emotion: str, seed: int, k: int) -> Utterance:
    """Utterance k of the corpus of a seed, by one of VOICES in one of STYLES."""
    rng, voice = np.random.default_rng(np.random.SeedSequence([seed, k])), VOICES[speaker]
    # An emotion is played more or less strongly as a whole, and each of its traits varies by itself on top.
    strength = rng.uniform(0.8, 1.2)
    style = Style(*(strength * np.array(STYLES[emotion]) + np.array(SPREAD) * rng.standard_normal(len(SPREAD)).clip(-2, 2)))
    parts, vowels = _syllables(rng, voice, style)
    frames = np.maximum(np.rint(parts[:, 0] * RATE / HOP), 1).astype(int)
    tracks = np.repeat(parts[:, 1:], frames, axis=0)  # (T, 10)
    formants = voice.tract * _smooth(tracks[:, :4], 11)
    loudness, aspiration, noise, centre, width, dull = _smooth(tracks[:, 4:], 4).T
    starts = np.cumsum(frames) - frames
    f0 = (voice.f0 * 2 ** ((style.f0 + _contour(rng, starts, frames, vowels, style)) / 12)).clip(60, 550)  # (T,) Hz
    loudness = loudness * np.linspace(1.15, 0.8, len(f0))  # the breath runs out
    tilt = voice.tilt + style.tilt + dull
    sound, voiced = _voice(rng, voice, style, f0, loudness, formants, tilt)
    breath = aspiration + 10 ** (-(voice.breath - 0.5 * style.tilt) / 20) * loudness
    sound = sound / voiced + _noise(rng, voice, breath, noise, centre, width, formants)
    sound = 10 ** ((LEVEL + voice.gain + style.level) / 20) * sound
    sound = sound + 10 ** ((FLOOR + voice.gain) / 20) * rng.standard_normal(len(sound))
    return Utterance(sound * min(1.0, PEAK / np.abs(sound).max()), f0, loudness)


def _syllables(rng: np.random.Generator, voice: Voice, style: Style) -> tuple[np.ndarray, list[tuple[int, float]]]:
    """Parts (S, 11): seconds, F1..F4, voice, aspiration, noise, its centre, width, dullness; (part, accent) of the vowels."""
    pace = max(voice.rate * (1 + style.rate / 100), 0.65)
    pause_chance = 0.06 * max(1 + style.pauses / 100, 0.2)
    total, before = rng.uniform(1.3, 3.0), rng.uniform(0.08, 0.2)
    silence = (*SCHWA, 0, 0, 0, 0, 1, 0)
    parts: list[tuple[float, ...]] = [(before, *silence)]
    vowels: list[tuple[int, float]] = []

    def consonant() -> None:
        kind, *locus, hz, width, level = CONSONANTS[rng.integers(len(CONSONANTS))]
        for seconds, loud, breath, hiss, dull in KINDS[kind]:
            parts.append((seconds / pace, *locus, SCHWA[3], loud, breath, hiss * level, hz, width, dull))

    accent = rng.integers(2)
    while sum(part[0] for part in parts) < total:
        if vowels and rng.random() < pause_chance:
            parts.append((rng.uniform(0.15, 0.35), *silence))
        if rng.random() < 0.9:
            consonant()
        accented = len(vowels) % 2 == accent or rng.random() < 0.15
        formants = SCHWA + (1 + style.vowels / 100) * (0.7 + 0.3 * accented) * (VOWELS[rng.integers(len(VOWELS))] - SCHWA)
        vowels.append((len(parts), accented * rng.uniform(0.6, 1.4)))
        seconds = rng.uniform(0.07, 0.11) + 0.04 * accented
        parts.append((seconds / pace, *formants, 1.0 + 0.3 * accented, 0, 0, 0, 1, 0))
        if rng.random() < 0.3:
            consonant()
    parts.append((rng.uniform(0.08, 0.2), *silence))
    return np.array(parts), vowels


def _contour(
    rng: np.random.Generator, starts: np.ndarray, frames: np.ndarray, vowels: list[tuple[int, float]], style: Style
) -> np.ndarray:
    """F0 in semitones about its own mean (T,): declination, a hump an accent, the final movement, flutter."""
    t = np.arange(frames.sum())
    first, last = starts[vowels[0][0]], starts[vowels[-1][0]] + frames[vowels[-1][0]]
    span = max(1 + style.span / 100, 0.25)
    f0 = span * np.interp(t, (first, last), (1.2, -1.2))
    for part, accent in vowels:
        u = (t - starts[part] - frames[part] / 2) / 16  # 80 ms
        f0 += accent * (3.5 * span + 1.2 * style.glide * u) * np.exp(-(u**2))
    f0 -= f0[first:last].mean()
    f0 += (style.glide - 1.5) * ((t - last + 60) / 60).clip(0, 1) ** 2  # over the last 0.3 s; neutral falls
    return f0 + 0.25 * _smooth(rng.standard_normal((len(t), 1)), 9)[:, 0] * 3


def _voice(
    rng: np.random.Generator,
    voice: Voice,
    style: Style,
    f0: np.ndarray,
    loudness: np.ndarray,
    formants: np.ndarray,
    tilt: np.ndarray,
) -> tuple[np.ndarray, float]:
    """Tracks (T,), formants (T, 4) -> sound (T * HOP,) of the glottal pulses, and its RMS where there is voice."""
    cycles = np.cumsum(f0) * HOP / RATE
    t = np.interp(np.arange(1, cycles[-1]), cycles, np.arange(len(f0)))  # (P,) frames
    t = t[np.interp(t, np.arange(len(f0)), loudness) > 0.02]
    row = t.astype(int)
    jitter = voice.jitter / 100 * max(1 + style.jitter / 100, 0.2)
    shifts = jitter * RATE / f0[row] * rng.standard_normal(len(t))
    loud = np.interp(t, np.arange(len(f0)), loudness) * np.exp(4 * jitter * rng.standard_normal(len(t)))
    f = np.fft.rfftfreq(PULSE, 1 / RATE).astype(np.float32)
    # Poles outside the unit circle: the open phase, resonance at about 0.9 F0, rings backwards from the closure.
    pitch = f0[row, None].astype(np.float32)
    source = 1j * f * pitch / ((1.0 * pitch) ** 2 - f**2 - 1j * f * 0.9 * pitch)
    corner = 3000 / np.sqrt(10 ** (tilt[row, None].clip(1.5, 45) / 10) - 1)
    source /= 1 + 1j * f / corner.astype(np.float32)
    sample, fine = np.divmod(np.rint((t * HOP + shifts) * 16).astype(int), 16)  # a cycle begins at a sixteenth of a sample
    delays = np.exp(-2j * np.pi / RATE * f * (BEFORE + np.arange(16, dtype=np.float32)[:, None] / 16))
    source *= delays[fine]
    source *= _tract(f, formants[row], voice)
    pulses = np.fft.irfft(source * _channel(f, voice), PULSE, axis=1) * loud[:, None]
    sound = np.zeros(len(f0) * HOP + 2 * PULSE)
    for start, pulse in zip(sample + PULSE - BEFORE, pulses, strict=True):
        sound[start : start + PULSE] += pulse
    sound = sound[PULSE : PULSE + len(f0) * HOP]
    voiced = np.repeat(loudness > 0.5, HOP)
    return sound, float(np.sqrt(np.mean(sound[voiced] ** 2)))


def _noise(
    rng: np.random.Generator,
    voice: Voice,
    breath: np.ndarray,
    noise: np.ndarray,
    centre: np.ndarray,
    width: np.ndarray,
    formants: np.ndarray,
) -> np.ndarray:
    """Tracks (T,), formants (T, 4) -> noise (T * HOP,): aspiration through the formants, friction around its own centre."""
    f = np.fft.rfftfreq(NOISE, 1 / RATE).astype(np.float32)
    friction = noise[:, None] * np.exp(-0.5 * ((f - centre[:, None]) / width[:, None]) ** 2)
    tract = np.abs(_tract(f, formants, voice))
    tract *= breath[:, None] / np.sqrt(np.mean(tract**2, axis=1, keepdims=True))
    shape = _channel(f, voice) * (friction + tract)  # (T, NOISE / 2 + 1)
    white = rng.standard_normal((2, *shape.shape), dtype=np.float32)
    window = np.sin(np.pi * (np.arange(NOISE) + 0.5) / NOISE)  # its square, half overlapped, sums to one
    frames = np.fft.irfft(shape * (white[0] + 1j * white[1]), NOISE, axis=1) * (window * np.sqrt(NOISE / 2))
    sound = np.zeros(len(noise) * HOP + NOISE)
    for k, frame in enumerate(frames):
        sound[k * HOP : k * HOP + NOISE] += frame
    return sound[NOISE // 2 : NOISE // 2 + len(noise) * HOP]


def _tract(f: np.ndarray, formants: np.ndarray, voice: Voice) -> np.ndarray:
    """Response (P, F) of the vocal tract at f (F,) Hz with formants (P, 4) Hz: a pole pair each, unit gain at 0 Hz."""
    response = np.ones(len(f), np.complex64)
    for hz in UPPER * voice.tract:
        response /= 1 + 0.08j * f / hz - (f / hz) ** 2
    denominator = np.ones((len(formants), len(f)), np.complex64)
    for j, bandwidth in enumerate(BANDWIDTHS):
        square = formants[:, j, None].astype(np.float32) ** 2
        denominator *= 1 + (1j * f * np.float32(bandwidth) - f**2) / square
    return response / denominator


def _channel(f: np.ndarray, voice: Voice) -> np.ndarray:
    """Amplitude (F,) of the speaker's recording channel: a mild tilt, and nothing below 60 Hz."""
    octaves = np.log2(np.maximum(f, 60) / 1000)
    return 10 ** (voice.channel * octaves / 20) * (f >= 60)


def _smooth(x: np.ndarray, n: int) -> np.ndarray:
    """(T, D) -> (T, D): each column convolved with a Hann window of about n frames a side."""
    window = np.hanning(2 * n + 1)[1:-1]
    padded = np.pad(x, ((n - 1, n - 1), (0, 0)), mode="edge")
    return np.stack([np.convolve(column, window / window.sum(), "valid") for column in padded.T], axis=1)
