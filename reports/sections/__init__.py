"""sections: what each part of a report says; one file a part, all decisions and no drawing."""
