"""The whole measuring plan of one GPU in one command, most valuable part first.

    python -m bench gpu --prebuild               compile what the plan needs, in processes, beside other work
    python -m bench gpu --budget 270 --out FILE  measure; run again and it goes on where it stopped
    python -m bench gpu --tiny --device cpu      the same parts on small structures: a rehearsal

SDXL is prepared by a second process while SD1.5 is measured, and measures when it is told to: nothing else
is timed meanwhile. Weights are random, of published sizes, made on the device.
"""
