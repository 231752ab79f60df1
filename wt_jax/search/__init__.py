"""Search: find the moments in an archive of videos that are like this one.

`store` keeps an index on disk, `build` fills it, `scan` searches it in memory, `engine` answers queries; `web` shows it all in
a browser. `exported` and `clips` are the only modules that touch encoders and video frames.
"""
