"""Frames of a video file and when each was taken. Nothing else of replay imports OpenCV."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from threading import Lock

import cv2

from leo_edge.runtime.errors import DatasetError
from leo_edge.runtime.frames import RgbImage

_LOST_S = 1.0  # a video whose last frames are missing is refused from so much on


class VideoFrames:
    """A video's frames by number, read forwards: an earlier one than the last opens it anew. Threads may share it."""

    def __init__(self, path: Path) -> None:
        """Opens a video and reads through it once for its stamps.

        Raises:
            DatasetError: it is no video that OpenCV can decode, or it ends before its length is over.
        """
        self._path, self._lock = path, Lock()
        self._video, self._next = _open(path), 0
        self.stamps_ns = self._read_stamps()
        """When each frame is shown, in nanoseconds from the first one's moment on."""

    def frame(self, number: int) -> RgbImage:
        """Returns a frame, [H, W, 3] uint8 RGB, as the sensor wrote it: a rotation in the file is not applied.

        Raises:
            DatasetError: it cannot be decoded (any more).
        """
        with self._lock:
            if number < self._next:
                self._reopen()
            while self._next <= number:
                if not self._video.grab():
                    raise DatasetError(f"cannot decode frame {number} of {self._path}: the file has changed, copy it again")
                self._next += 1
            decoded, image = self._video.retrieve()
            if not decoded:
                raise DatasetError(f"cannot decode frame {number} of {self._path}: copy it again")
            return cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype("uint8", copy=False)  # [H, W, 3]

    def _read_stamps(self) -> tuple[int, ...]:
        stamps_ns: list[int] = []
        while self._video.grab():
            # After grab() it is the stamp of the frame that was grabbed, also where frames are not evenly spaced.
            stamps_ns.append(round(self._video.get(cv2.CAP_PROP_POS_MSEC) * 1e6))
        length_s = self._length_s()
        self._reopen()
        if not stamps_ns:
            raise DatasetError(f"video {self._path} has no frame that can be decoded: copy it again")
        longest_ns = max((later - earlier for earlier, later in pairwise(stamps_ns)), default=0)
        if length_s - stamps_ns[-1] / 1e9 > max(_LOST_S, 2 * longest_ns / 1e9):
            raise DatasetError(
                f"video {self._path} is {length_s:.1f} s long, its last frame that can be decoded is at "
                f"{stamps_ns[-1] / 1e9:.1f} s: it is cut off, copy it again"
            )
        if any(later <= earlier for earlier, later in pairwise(stamps_ns)):
            raise DatasetError(f"stamps of video {self._path} do not rise: write it again with a stamp for each frame")
        return tuple(stamps_ns)

    def _length_s(self) -> float:
        """Returns how long the file says that it is; both figures are as exact as the file's kind has them."""
        count, hz = self._video.get(cv2.CAP_PROP_FRAME_COUNT), self._video.get(cv2.CAP_PROP_FPS)
        return count / hz if hz > 0 else 0.0

    def _reopen(self) -> None:
        self._video.release()
        self._video, self._next = _open(self._path), 0


def _open(path: Path) -> cv2.VideoCapture:
    video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    if not video.isOpened():
        raise DatasetError(f"cannot open video {path}: it is cut off, or no video that OpenCV's FFmpeg decodes")
    video.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
    return video
