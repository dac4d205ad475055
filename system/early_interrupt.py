"""Import this before all else: until `run` takes over, Ctrl-C ends a program in silence.

SIGTERM does so by itself.
"""

try:
    import signal  # takes milliseconds itself

    # What starts a program may have it ignore the signal; then that stays.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
except KeyboardInterrupt:
    raise SystemExit(130) from None
