"""A terminal for tests: a program on a pty, and the screen that a person would see, with its scrollback.

Knows what the command line and shells use: newline, return, backspace, cursor up and sideways, erasing, colours (which
it leaves out). A resized window breaks and joins long lines as today's terminals do."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading

import quadtest

_ESCAPE = re.compile(r"\x1b(?:\[([?>=\d;]*)([A-Za-z@`])|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()][A-Z0-9]|[=>78A-Z])")


class Screen:
    """Lines as they are written, each perhaps wider than the window, and a cursor in the last ones."""

    def __init__(self, columns):
        self.columns = columns
        self.rows = [[]]  # of characters
        self.joined = [False]  # whether the row goes on in the next one, having been too long
        self.row = self.column = 0
        self._rest = ""

    def feed(self, text):
        text = self._rest + text
        self._rest = ""
        at = 0
        while at < len(text):
            if text[at] == "\x1b":
                found = _ESCAPE.match(text, at)
                if not found:
                    if len(text) - at < 64:
                        self._rest = text[at:]
                        return
                    at += 1
                    continue
                self._escape(found[1] or "", found[2] or "")
                at = found.end()
            else:
                self._put(text[at])
                at += 1

    def _put(self, character):
        if character == "\n":
            self._down()
        elif character == "\r":
            self.column = 0
        elif character == "\b":
            self.column = max(0, self.column - 1)
        elif character >= " ":
            if self.column >= self.columns:
                self.joined[self.row] = True
                self._down()
                self.column = 0
            row = self.rows[self.row]
            row.extend(" " * (self.column - len(row) + 1))
            row[self.column] = character
            self.column += 1

    def _down(self):
        self.row += 1
        if self.row == len(self.rows):
            self.rows.append([])
            self.joined.append(False)

    def _escape(self, numbers, letter):
        first = int(numbers) if numbers.isdigit() else 0
        if letter == "A":
            self.row = max(0, self.row - max(1, first))
        elif letter == "C":
            self.column += max(1, first)
        elif letter == "D":
            self.column = max(0, self.column - max(1, first))
        elif letter == "G":
            self.column = max(0, first - 1)
        elif letter == "J" and first == 0:
            del self.rows[self.row][self.column :]
            del self.rows[self.row + 1 :], self.joined[self.row + 1 :]
            self.joined[self.row] = False
        elif letter == "K" and first == 0:
            del self.rows[self.row][self.column :]

    def resize(self, columns):
        """Long lines are broken and joined anew; the cursor, at the end of all, stays there."""
        whole = []
        for index, row in enumerate(self.rows):
            if index > 0 and self.joined[index - 1]:
                whole[-1] += row
            else:
                whole.append(list(row))
        self.columns, self.rows, self.joined = columns, [], []
        for line in whole:
            pieces = [line[i : i + columns] for i in range(0, len(line), columns)] or [[]]
            self.rows += pieces
            self.joined += [True] * (len(pieces) - 1) + [False]
        self.row, self.column = len(self.rows) - 1, len(self.rows[-1])

    def lines(self):
        lines = ["".join(row).rstrip() for row in self.rows]
        while lines and not lines[-1]:
            lines.pop()
        return lines


class Terminal:
    """A program whose input, output and errors are a terminal of its own."""

    def __init__(self, command, env, columns=100, rows=30, cwd=None, stdout=None):
        self.screen = Screen(columns)
        self.raw = ""
        self._lock = threading.Lock()
        self._decoder_rest = b""
        self.master, slave = pty.openpty()
        self._set_size(columns, rows)
        self.rows = rows
        self.process = subprocess.Popen(
            [str(word) for word in command], stdin=slave, stdout=slave if stdout is None else stdout, stderr=slave,
            env=env, cwd=cwd, start_new_session=True, preexec_fn=self._take_terminal,
        )  # fmt: skip
        os.close(slave)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @staticmethod
    def _take_terminal():
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        # As a login shell leaves it: the tests themselves may have been started in the background, which ignores it.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    def _set_size(self, columns, rows):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def _read(self):
        while True:
            try:
                piece = os.read(self.master, 65536)
            except OSError:
                return
            if not piece:
                return
            text = (self._decoder_rest + piece).decode(errors="surrogateescape")
            cut = len(text.rstrip("".join(map(chr, range(0xDC80, 0xDD00)))))
            self._decoder_rest = text[cut:].encode(errors="surrogateescape")
            with self._lock:
                self.raw += text[:cut]
                self.screen.feed(text[:cut])

    def lines(self):
        with self._lock:
            return self.screen.lines()

    def last_line(self):
        lines = self.lines()
        return lines[-1] if lines else ""

    def resize(self, columns):
        with self._lock:
            self._set_size(columns, self.rows)
            self.screen.resize(columns)

    def send(self, text):
        os.write(self.master, text.encode())

    def wait_for(self, pattern, timeout=30):
        """Waits until some line has the pattern; returns that line."""

        def found():
            for line in self.lines():
                if re.search(pattern, line):
                    return line
            raise AssertionError("the screen shows:\n" + "\n".join(self.lines()))

        return quadtest.wait_until(found, timeout, f"the terminal shows {pattern!r}")

    def wait(self, timeout=60):
        """The exit code, once everything that was written has been read."""
        code = self.process.wait(timeout)
        self._reader.join(timeout)
        return code

    def close(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        self._reader.join(5)
        os.close(self.master)
