"""Import this before all else: until `run` takes over, Ctrl-C ends a program in silence.

SIGTERM does so by itself.
"""

try:
    import signal  # takes milliseconds itself

    # Whatever starts a program may make it ignore the signal; that is kept.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
except KeyboardInterrupt:
    raise SystemExit(130) from None
