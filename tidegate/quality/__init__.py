"""Counts what all versions say, out of the samples that their servers keep, for Prometheus to read at one instant.

A process of its own (`python -m tidegate.quality`): one process counts for all versions, so that a scrape sees champion
and candidate at the same moment. It reads on from the files' ends; what was served before it started only fills its
memory, so that labels and pairs find it. Counters begin again at zero with every start, which the judge takes for what
it is. It decides nothing, and nothing that serves waits for it.

| what dies or lies          | what comes of it                                                                  |
| -------------------------- | --------------------------------------------------------------------------------- |
| this process               | no figures: stages that wait for a signal hold; `QualitySilent`                   |
| Kafka                      | no labels meanwhile; tried again after 1 to 30 s; read on from the kept position  |
| a message that is no label | counted as `tidegate_labels_bad_total`                                            |
| a line that is no sample   | counted as `tidegate_samples_bad_total`                                           |
| a delivery with a mistake  | its last good file counts; without one, its versions do and its labels do not     |
"""
