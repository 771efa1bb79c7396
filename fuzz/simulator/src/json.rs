//! Just enough JSON to print results.

/// One object, member by member.
#[derive(Debug, Default)]
pub(crate) struct Object(String);

impl Object {
    fn key(&mut self, key: &str) {
        if !self.0.is_empty() {
            self.0.push(',');
        }
        self.0 += &format!("\"{key}\":");
    }

    /// A number.
    pub(crate) fn number(mut self, key: &str, number: u64) -> Self {
        self.key(key);
        self.0 += &number.to_string();
        self
    }

    /// Something that is JSON already.
    pub(crate) fn raw(mut self, key: &str, json: &str) -> Self {
        self.key(key);
        self.0 += json;
        self
    }

    /// A text.
    pub(crate) fn text(mut self, key: &str, text: &str) -> Self {
        self.key(key);
        self.0.push('"');
        for letter in text.chars() {
            match letter {
                '"' => self.0 += "\\\"",
                '\\' => self.0 += "\\\\",
                '\n' => self.0 += "\\n",
                letter if u32::from(letter) < 32 => {
                    self.0 += &format!("\\u{:04x}", u32::from(letter))
                }
                letter => self.0.push(letter),
            }
        }
        self.0.push('"');
        self
    }

    /// The whole.
    pub(crate) fn finish(self) -> String {
        format!("{{{}}}", self.0)
    }
}

/// A list of things that are JSON already.
pub(crate) fn list(items: &[String]) -> String {
    format!("[{}]", items.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_quoted() {
        let object = Object::default().number("n", 7).text("t", "a \"b\"\\\n\u{1}");
        let object = object.raw("l", &list(&["1".into(), "2".into()]));
        assert_eq!(object.finish(), r#"{"n":7,"t":"a \"b\"\\\n\u0001","l":[1,2]}"#);
    }
}
