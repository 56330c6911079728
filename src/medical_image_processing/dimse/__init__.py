"""C-STORE in and out (DICOM PS3.4, annex B), over pynetdicom: what peers send and get, and nothing of jobs."""
